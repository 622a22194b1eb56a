"""The names of before arrays, table and evaluations had modules of their own."""

from common.store.evaluation import *  # noqa: F403
from common.store.files import FORMAT, read_arrays, write_arrays  # noqa: F401
from common.store.table import KEY_COLUMNS, format_table, read_table, table_path, write_rows  # noqa: F401
