"""Everything declarative lives in setup.cfg; this places what setup.cfg cannot.

The start-up files go to the root of site-packages (in wheels and in editable wheels), and the README, recipes, data
templates and docs, which lie beside the package in the source tree, go inside it.
"""

import base64
import hashlib
import shutil
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel


START_UP = [Path("sefe_plugin/hosts/startup") / name for name in ("sefe_plugin.pth", "sefe_plugin.start")]
SHIPPED_FOLDERS = [Path("recipes"), Path("data_templates"), Path("docs")]
SHIPPED_FILES = [Path("README.md")]


class BuildPy(build_py):
    """Adds the start-up files, and the shipped files and folders, to a wheel."""

    def _copies(self) -> list[tuple[Path, Path]]:
        if self.editable_mode:
            return []
        root = Path(self.build_lib)
        files = [file for folder in SHIPPED_FOLDERS for file in sorted(folder.rglob("*")) if file.is_file()]
        return [(file, root / file.name) for file in START_UP] + [
            (file, root / "sefe_plugin" / file) for file in [*SHIPPED_FILES, *files]
        ]

    def run(self):
        super().run()
        for source, target in self._copies():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode=True):
        return super().get_outputs(include_bytecode) + [str(target) for _, target in self._copies()]


class EditableWheel(editable_wheel):
    """Adds the start-up files and their RECORD lines to an editable wheel."""

    def run(self):
        super().run()
        for wheel in Path(self.dist_dir).glob("*editable*.whl"):
            rewritten = wheel.with_suffix(".tmp")
            with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(rewritten, "w", zipfile.ZIP_DEFLATED) as target:
                for item in source.infolist():
                    content = source.read(item)
                    if item.filename.endswith(".dist-info/RECORD"):
                        content += "".join(_record_line(file) for file in START_UP).encode()
                    target.writestr(item, content)
                for file in START_UP:
                    target.write(file, file.name)
            rewritten.replace(wheel)


def _record_line(file: Path) -> str:
    content = file.read_bytes()
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{file.name},sha256={digest},{len(content)}\n"


setup(cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel})
