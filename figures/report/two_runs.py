"""Two runs side by side (--against): the same methods and sparsities with other settings, data or seeds."""

from pathlib import Path

from common.cli import UserError
from common.store.files import differences
from figures.report import measures, outputs, uncertainty
from figures.report.contents import SIDE_BY_SIDE
from figures.report.measures import STATISTICS, Pair
from figures.report.page import KEY, METHOD, TEMPLATES, Column, Table, show, tabulate, text_column
from figures.report.read import StoredPopulation, load_outputs, with_dense
from figures.report.tables import write_tables


def write_report(folder: Path, stored: list[list[StoredPopulation]], names: tuple[str, str]) -> None:
    """Writes tables and page on the stored populations of two runs with these names.

    Raises:
        UserError: the runs have no population in common.
    """
    runs = [load_outputs([item for item in run if item.is_pruned]) for run in stored]
    populations, others = (with_dense(loaded) for loaded, _ in runs)
    by_label = {other.label: other for other in others}
    pairs = [run_pair(item, by_label[item.label]) for item in populations if item.label in by_label]
    if all(pair.first.pruning_method == "dense" for pair in pairs):
        raise UserError(
            f"--against: {names[0]} and {names[1]} share no learning method, pruning method and sparsity "
            "with all outputs stored; run the PIE scripts for one in both"
        )
    labels = [[population.label for population in loaded] for loaded, _ in runs]
    missing = [
        f"Only in {name}: {', '.join(only)}."
        for name, present, other in zip(names, labels, labels[::-1])
        if (only := [label for label in present if label not in other])
    ]
    for name, (_, not_stored) in zip(names, runs):
        missing += [f"{name}: {text}." for text in not_stored]
    changed, rows = changed_settings(*stored), [row for pair in pairs for row in run_differences(pair)]
    write_tables(folder, {"changed": changed, "differences": rows})
    sides = text_column("first", names[0]), text_column("second", names[1])
    settings = *METHOD, text_column("sparsities"), text_column("setting"), *sides
    numbers = (
        text_column("number"),
        *KEY,
        Column("models", "K"),
        *sides,
        text_column("whole", f"{names[0]} − {names[1]}"),
        text_column("chance", "by chance"),
        text_column("seeds"),
    )
    values = {
        "title": " against ".join(names),
        "names": names,
        "missing": missing,
        "fewest_seeds": uncertainty.FEWEST_SEEDS,
        "changed": Table(settings, tabulate(settings, changed).rows or [["no recorded setting"]]),
        "differences": tabulate(numbers, [*map(shown_difference, rows)]),
    }
    outputs.write_page(folder, TEMPLATES.get_template("two_runs.html").render(values))


def shown_difference(row: dict) -> dict:
    """Formats a row of `run_differences`."""
    title, *form = SIDE_BY_SIDE[row["measure"]]
    numbers = {name: show(row[name], *form) for name in ("first", "second", "chance") if name in row}
    text = show(row, *form, signed="first" in row)
    seeds = "the same" if row["paired"] else "not paired"
    return row | numbers | {"number": title, "whole": text, "seeds": seeds}


def run_pair(first: StoredPopulation, second: StoredPopulation) -> Pair:
    """Pairs two populations; networks are paired if the larger population has all seeds of the smaller.
    External networks, whose seeds are unknown, are paired only if both come from the same dense ones."""
    ids = [set(population.seeds) for population in (first, second)]
    trained = [set(population.runs["seeds"]) for population in (first, second)]
    same_dense = first.made["dense_checkpoints"] == second.made["dense_checkpoints"]
    known = same_dense or not (first.external or second.external)
    paired = known and all(len(set.intersection(*sets)) == min(map(len, sets)) for sets in (ids, trained))
    return Pair(first, second, paired)


def run_differences(pair: Pair) -> list[dict]:
    """Returns rows of method, sparsity, measure, models, paired, first, second, and the difference (first
    minus second) with its interval; for `overlap` instead the similarity, and that of random sets."""
    measured, dense = {}, pair.first.pruning_method == "dense"
    for name in ("accuracy", "q_score") if dense else [key for key in SIDE_BY_SIDE if key in STATISTICS]:
        terms = measures.difference(STATISTICS[name], pair)
        if terms:
            first, second = (float(sample.value.mean()) for *_, sample in terms)
            measured[name] = {"first": first, "second": second} | uncertainty.combine(terms)
    if not dense and pair.first.made["data"] == pair.second.made["data"]:
        measured["overlap"] = measures.overlap(pair)
    common_columns = {"models": 0, "paired": pair.paired}
    return [pair.first.key | {"measure": name} | common_columns | row for name, row in measured.items()]


def changed_settings(first: list[StoredPopulation], second: list[StoredPopulation]) -> list[dict]:
    """Returns settings and data in which the runs differ: rows of learning and pruning method, sparsities,
    setting, and its value in both runs. Sparsities with the same difference share a row. Settings of dense
    training appear only in rows of dense networks."""
    others, rows = {population.label: population for population in second}, {}
    for population in first:
        other = others.get(population.label)
        if other is None:
            continue
        for key, values in differences(*map(recorded_settings, (population, other))).items():
            if key.startswith("dense."):
                continue  # rows of dense networks show it
            name = population.learning_method, population.pruning_method, key, *map(str, values)
            rows.setdefault(name, []).append(f"{population.sparsity:g}")
    titles = ("learning_method", "pruning_method", "setting", "first", "second")
    return [dict(zip(titles, name)) | {"sparsities": ", ".join(texts)} for name, texts in rows.items()]


def recorded_settings(population: StoredPopulation) -> dict:
    """Returns settings of training, data, number of networks, architecture and days."""
    arrays, days = population.arrays, population.runs["days"]
    return population.settings | {
        "data": population.made["data"][:12],
        "networks": len(arrays["ids"]),
        "architecture": population.network,
        "days": " to ".join(dict.fromkeys(days[:1] + days[-1:])),
    }
