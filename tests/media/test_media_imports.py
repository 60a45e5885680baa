"""What importing this package brings along."""

import subprocess
import sys


def test_packets_are_read_without_any_codec() -> None:
    program = (
        "import sys, commucat_media\n"
        "print([name for name in ('pyogg', 'av', 'numpy', 'trio', 'ctypes') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")
