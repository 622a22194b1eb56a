"""Lists what lies in a folder of models, how flags choose it and which command removes it; removes nothing.

python -m common.store models/digits
"""

import sys
from pathlib import Path

from common import cli


def build_parser() -> cli.Parser:
    parser = cli.Parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="MODELS_FOLDER", help="models/, models/NAME/, ...")
    return parser


@cli.command
def main(argv=None) -> None:
    flags = build_parser().parse_args(argv)
    from common.store.listing import describe_folder

    print(*describe_folder(flags.folder), sep="\n")


if __name__ == "__main__":
    sys.argv[0] = "common.store"  # not __main__.py, in messages
    sys.exit(main())
