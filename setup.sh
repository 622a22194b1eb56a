#!/usr/bin/env bash
# Sets up the environment and runs the study. ./setup.sh help lists what it can do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

PYTHON=${PYTHON:-python3}  # the interpreter that makes the environment
VENV=${VENV:-${VIRTUAL_ENV:-.venv}}  # the environment's folder: an active one, else .venv
# A ~ that no shell has replaced: in quotes, or from another program.
PYTHON=${PYTHON/#\~\//$HOME/}
VENV=${VENV/#\~\//$HOME/}
python=$VENV/bin/python

usage() {
  cat <<'END'
./setup.sh                 sets up: environment, requirements
./setup.sh demo            sets up and runs the whole study on scikit-learn's digits
                           (minutes on a CPU, nothing to download)
./setup.sh procedures      the questions of Paganini & Forde 2020 on digits: masks of eight procedures of
                           pruning compared (minutes on a CPU)
./setup.sh test            sets up and runs the tests
./setup.sh paper [--cuda_device N] [--seeds 0-9] [--methods ...] [--sparsities ...] [--workers N]
                 [--dry_run] [--yes] [--slurm DIR]
                           the published study on CIFAR-10, or a part of it: prints its commands, estimates
                           the time, runs them; --dry_run stops before running, --slurm writes job scripts
                           instead, --yes runs them without CUDA too, --help says what each flag takes
LOCKED=1 installs the versions of requirements.lock, LOCKED=0 (default) the newest that requirements.txt
allows.
PYTHON=/path/to/python3.12 names another interpreter, VENV=/path/to/environment another environment than the
active one (without an active one: .venv).
END
}

die() {
  echo "setup.sh: error: $*" >&2
  exit 2
}

set_up() {
  local list
  case ${LOCKED:-0} in
    1) list=requirements.lock ;;
    0) list=requirements.txt ;;
    *) die "LOCKED=$LOCKED: give 1 for the versions of requirements.lock, 0 for the newest" ;;
  esac
  if [ ! -x "$python" ]; then
    if [ -e "$VENV" ] && [ ! -e "$VENV/pyvenv.cfg" ] && [ -n "$(ls -A "$VENV")" ]; then
      die "VENV=$VENV is no environment of Python: name another folder, which is made"
    fi
    command -v "$PYTHON" >/dev/null ||
      die "$PYTHON not found: install Python 3.11 or newer, or name it: PYTHON=/path/to/python3 ./setup.sh"
    version=$("$PYTHON" --version 2>&1) || true
    [[ $version =~ ^Python\ [0-9.a-z+]+$ ]] ||
      die "PYTHON=$PYTHON is no Python: name Python 3.11 or newer: PYTHON=/path/to/python3.12 ./setup.sh"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
      die "$version is too old: name Python 3.11 or newer: PYTHON=/path/to/python3.12 ./setup.sh"
    echo "making the environment $VENV"
    "$PYTHON" -m venv --clear "$VENV" || {
      rm -f "$python"  # the next call begins anew
      die "no environment could be made in $VENV, see above: where the module venv is missing, install it" \
        "(Debian, Ubuntu: apt install python3-venv); or name a folder that can be written: VENV=..."
    }
  fi
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || true
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "the environment $VENV has Python $version, which is too old: name one of 3.11 or newer: VENV=..."
  install "$list"
}

# Installs a requirements file, once for each version of Python: what was installed last is noted in the
# environment.
install() {
  local noted=${1%.*}
  noted=$VENV/installed_${noted//\//_}_$version
  cmp -s "$1" "$noted" && return
  echo "installing $1 (torch is large: this can take minutes)"
  "$python" -m pip install --quiet --disable-pip-version-check --no-compile -r "$1" ||
    die "installing $1 failed: check the network (or your package index, PIP_INDEX_URL) and the free disk" \
      "space (8 GB), and that $VENV has pip ($python -m ensurepip); then run ./setup.sh again"
  cp "$1" "$noted"
}

# Prints a command so that it can be copied, and runs it.
run() {
  echo
  echo "\$ $(printf %q "$python") $*"
  "$python" "$@" || exit
}

# Both learning methods at once, each with half of the cores: small networks do not fill them.
demo() {
  local started=$SECONDS log failed=
  threads=$((($(nproc) + 1) / 2))
  log=$(mktemp)
  echo "both learning methods at once, $threads threads each;" \
    "the supervised half's commands and output follow the contrastive one's"
  demo_of sup >"$log" 2>&1 &
  (demo_of clr) || failed=1
  wait $! || failed=1
  cat "$log"
  rm "$log"
  [ -z "$failed" ] ||
    die "a command of the demo failed, see above; what is finished is kept: ./setup.sh demo goes on"
  run figures/make_figures.py --results pies/digits
  echo
  echo "demo finished in $((SECONDS - started)) s; open pies/digits/report.html in a browser"
}

demo_of() {
  local data="--dataset digits --threads $threads"
  local six="$data --models_number 6" one_shot=0.5,0.9,0.95,0.99
  local gradual="--pruning_methods GMP,later_GMP --pruning_percentages 0.95"
  local supervised="sup_training.py $data --index_end 5 --epochs 12 --batch_size 64 --learning_rate 0.1"
  if [ "$1" = sup ]; then
    run $supervised
    run $supervised --pruning 0.95 --schedule early --begin_epoch 0.15 --end_epoch 3
    run $supervised --pruning 0.95 --schedule late --begin_epoch 3 --end_epoch 5.8
  else
    run clr_training.py $data --index_end 5 --epochs 40 --batch_size 128 --learning_rate 0.02 \
      --head_epochs 20 --pruning_percentages 0.0
  fi
  run "$1"_pruning_finetune.py $six --pruning_percentages 0.0,$one_shot --epochs 8  # 0.0: the control
  run "$1"_pie_kmodels_detection.py $six --pruning_percentages $one_shot --plot_q_score --plot_umap
  run "$1"_prediction_depth.py $six --pruning_percentages $one_shot --pruning_methods global
  if [ "$1" = sup ]; then
    run sup_pie_kmodels_detection.py $six $gradual --plot_q_score --plot_umap
    run sup_prediction_depth.py $six $gradual
  fi
}

# What Paganini & Forde ask: do procedures find the same masks, does structure emerge, do weights stay?
procedures() {
  local networks="--dataset digits --model_depth 10 --widen_factor 1 --threads 1 --workers $(nproc)"
  local of="$networks --save_path models/procedures --models_number 4" procedure
  run sup_training.py $networks --save_path models/procedures --index_end 3 --epochs 12 --batch_size 64 \
    --learning_rate 0.1 --save_epochs 0
  for procedure in magnitude "magnitude --scope layer" random filter_l1 filter_l2 filter_linf \
    "magnitude --after reinit" "magnitude --after finetune --epochs 8"; do
    run sup_pruning_finetune.py $of --pruning_schedule iterative --iterations 5 --rate 0.45 \
      --criterion $procedure
  done
  local iterative=iterative0.45 methods
  methods=$(printf "%s_${iterative}_rewind0," global layer global_random filter_l1 filter_l2 filter_linf)
  methods+=global_${iterative}_reinit,global_${iterative}_finetune
  run sup_pie_kmodels_detection.py $of --run procedures --pruning_methods "$methods" \
    --pruning_percentages 0.6975,0.9497
  run figures/make_figures.py --results pies/digits --run procedures
}

mode=${1:-setup}
[ $# -eq 0 ] || shift
[ "$mode" = paper ] || [ $# -eq 0 ] || die "$mode takes no further words; ./setup.sh help lists what there is"
case $mode in
  setup) set_up; echo "ready: ./setup.sh demo runs the study on digits" ;;
  demo) set_up; demo ;;
  procedures) set_up; procedures ;;
  test)
    set_up
    install tests/requirements.txt
    run -m pytest -q -rs -n 2 --dist loadfile --no-loadscope-reorder tests
    ;;
  paper) set_up; "$python" benchmarks/paper.py "$@" ;;
  help | -h | --help) usage ;;
  *) die "unknown word $mode; ./setup.sh help lists what there is" ;;
esac
