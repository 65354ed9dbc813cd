"""Running labs: processes, results on the disk, a progress bar."""
