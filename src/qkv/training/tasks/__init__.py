"""What qkv trains: a kind of model, its data, its loss, a sample of what it can do. One file each."""
