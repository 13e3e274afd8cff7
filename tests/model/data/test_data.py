import subprocess
import sys


def test_loading_data_imports_neither_torch_nor_aeon():
    check = (
        "import sys; from model.data import load; load('UnitTest', seed=0); print({'torch', 'aeon'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
