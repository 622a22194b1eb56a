"""Adds stamps to results of early versions, which had none; the arrays keep their bytes.

python -m common.store.stamp pies/digits
"""

import shutil
import sys
import zipfile
import zlib
from pathlib import Path

from common import cli, values


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "folder", type=values.path, metavar="RESULTS_FOLDER", help="searched with its subfolders"
    )
    return parser


@cli.command
def main(argv=None) -> None:
    folder = Path(build_parser().parse_args(argv).folder)
    paths = sorted(folder.rglob("[!.]*.npz"))
    if not paths:
        raise cli.UserError(f"{folder} holds no .npz; give a folder of results (pies/...)")
    print(f"stamped: {sum(map(stamp, paths))} of {len(paths)} .npz in {folder}")


def stamp(path: Path) -> bool:
    """Stamps an .npz of this code (it has an entry `made`) if it has no stamp; returns whether it did.

    Raises:
        UserError: a damaged .npz.
    """
    from common.store.files import directory_digest, write_atomically

    def write(temporary: Path) -> None:
        shutil.copyfile(path, temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.comment = directory_digest(archive)

    cli.refuse_pipe(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.comment or "made.npy" not in archive.namelist():
                return False
            if archive.testzip():
                raise zipfile.BadZipFile
    except (zipfile.BadZipFile, zlib.error, EOFError):
        raise cli.UserError(f"{path} is damaged; move it away and repeat the command") from None
    write_atomically(path, write)
    return True


if __name__ == "__main__":
    sys.argv[0] = "common.store.stamp"  # for messages, instead of stamp.py
    sys.exit(main())
