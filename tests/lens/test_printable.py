"""What comes from elsewhere cannot command a terminal."""

from qkv.lens.printable import printable


def test_printable_disarms_the_terminal_and_the_direction_of_writing():
    assert printable("\x1b[31mred\u202e\x00\n") == "�[31mred���"
    assert printable("鼠标 👩‍💻") == "鼠标 👩‍💻"
