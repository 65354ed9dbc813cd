"""What comes from elsewhere cannot command a terminal."""

from qkv.text.printable import LINES, printable


def test_printable_disarms_the_terminal_and_the_direction_of_writing():
    assert printable("\x1b[31mred\u202e\x00\n") == "�[31mred���"
    assert printable("\x1b[31mred\u202e\x00\n\tend", keep=LINES) == "�[31mred��\n\tend"
    assert printable("鼠标 👩‍💻") == "鼠标 👩‍💻"
