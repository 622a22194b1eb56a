"""The PIE and depth stages of the clr_ and sup_ scripts: find the populations, evaluate their networks,
measure, store and draw."""

import hashlib
import json
import warnings
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from common import metrics, neighbours, process
from common.cli import UserError, logger
from common.methods import FINETUNED, with_sparsity
from common.pruning import layer_name
from common.store import evaluation
from common.store.evaluation import OUTPUTS, PARTS
from common.store.files import FORMAT, differences, read_arrays, write_arrays
from common.store.names import kinds_in
from common.store.populations import Population, find_control, find_population, script_remedy, show_ids
from common.store.records import origin_of
from common.store.runs import Job, share
from common.store.table import KEY_COLUMNS, format_table, make_table, row_key, table_path
from common.study import Study

UMAP_SEED = 0
UMAP_IMAGES = 10
CONTROL = (FINETUNED, 0.0)  # pruning method and sparsity
DEPTH_COLUMNS = {"prediction": "depth", "label": "label_depth"}
# Columns that are meaningless for dense networks.
PRUNED_ONLY_COLUMNS = ("ties_pruned", "agreement", "cka", "probability_change")
TITLE_SETTINGS = ("epochs", "batch_size", "learning_rate", "temperature")
DEFINITIONS = {"prediction": "network's final prediction", "label": "true label, as published"}
GALLERY = 48  # stored PIE images: those with the most confident disagreement


@dataclass(frozen=True)
class PopulationOutputs:
    """Outputs of the K networks of a population for the N test images.

    outputs: predictions, q_score, z_score and l1_norm (K, N), log_probabilities (K, N, C), latent_sample (K,
    S, D), zero_latents (K,), the number of all-zero latents, whose Q-Score is undefined.
    """

    population: Population
    outputs: dict[str, np.ndarray]

    @property
    def ids(self) -> list[int]:
        return self.population.ids

    @property
    def predictions(self) -> np.ndarray:
        return self.outputs["predictions"]


@dataclass(frozen=True)
class PopulationMetrics:
    """Arrays to store for a population, and its columns of the table."""

    arrays: dict[str, np.ndarray]
    columns: dict[str, float | None]


def detect_pies(study: Study) -> None:
    """Compares every pruned population with the dense one: PIEs, their classes, Q-Scores and UMAPs."""
    labels, classes = study.data.test_labels.cpu().numpy(), len(study.data.class_names)
    # 1. Find the populations.
    if study.flags.plot_umap and len(labels) < UMAP_IMAGES:
        raise UserError(
            f"--plot_umap needs at least {UMAP_IMAGES} test images, not {len(labels)}; leave it out"
        )
    populations = find_populations(study)
    for population in populations:
        shared_ids(populations[0], population)
    refuse_other_results(study, populations)
    # 2. Evaluate the networks; other processes may share the work.
    if not share(study, [job for population in populations for job in evaluations(study, population)]):
        return  # this process is only a worker
    # 3. Measure, with only two populations in memory at once.
    dense = evaluate_population(study, populations[0])
    measured = [measure(dense, dense, labels, classes)]
    for population in populations[1:]:
        measured.append(measure(dense, evaluate_population(study, population), labels, classes))
    files = study.data.test_files or np.arange(len(labels))  # indices, for data without files
    for outcome in measured:
        pies = np.flatnonzero(outcome.arrays["is_pie"])
        outcome.arrays["pie_images"] = np.array([files[index] for index in pies], str)
    # 4. Store, then draw; a figure that fails does not stop the others.
    rows, failures = store(study, populations, measured), []
    for population, outcome in zip(populations, measured):
        try:
            draw_pies(study, populations[0], population, outcome.arrays)
        except UserError as error:
            failures.append(error)
    show_table(study, rows)
    if failures:
        raise failures[0]


def compare_depths(study: Study) -> None:
    """Compares prediction depths of every pruned population with the dense one, separately for PIEs."""
    labels, classes = study.data.test_labels.cpu().numpy(), len(study.data.class_names)
    if (images := len(study.data.train_images)) < neighbours.NEIGHBOURS:
        needed = f"prediction depth needs at least {neighbours.NEIGHBOURS} training images"
        raise UserError(f"{needed}, {study.data.name} has {images}")
    # 1. Find the populations; compare networks whose ids exist on both sides.
    dense, *_ = populations = find_populations(study)
    number = study.flags.prediction_depth_models
    ids = [shared_ids(dense, population)[:number] for population in populations]
    refuse_other_results(study, populations, ids)
    # 2. Evaluate and probe the networks; other processes may share the work.
    jobs = [job for population in populations for job in evaluations(study, population)]
    jobs += [job for population, chosen in zip(populations, ids) for job in probes(study, population, chosen)]
    if not share(study, jobs):
        return  # this process is only a worker
    # 3. Measure.
    measured, outputs = [], evaluate_population(study, dense)
    for population, chosen in zip(populations, ids):
        voters = voting_predictions(outputs, evaluate_population(study, population))
        is_pie = metrics.find_pies(*voters, classes)
        networks = ([job.work() for job in probes(study, side, chosen)] for side in (dense, population))
        measured.append(measure_depths(*networks, labels, is_pie))
        measured[-1].arrays["ids"] = chosen
    # 4. Store, then draw.
    rows = store(study, populations, measured, ids)
    for population, outcome in zip(populations[1:], measured[1:]):
        draw_depths(study, dense, population, outcome.arrays)
    show_table(study, rows)


def find_populations(study: Study) -> list[Population]:
    """Returns the dense population, then every requested population that has networks. For one-shot
    populations their finetuned control follows the dense one if it exists.

    Finding all of them before any evaluation reports errors at once.

    Raises:
        UserError: no pruned network exists.
    """
    dense = find_population(study, "dense", 0.0)
    names, sparsities = study.flags.pruning_methods, study.flags.pruning_percentages
    pruned = [name for name in names if name != FINETUNED]
    requested = [CONTROL] * (FINETUNED in names) + [*product(pruned, sparsities)]
    matches = [find_population(study, *kind, dense) for kind in requested]
    missing = ", ".join(
        f"{method} {sparsity}"
        for (method, sparsity), population in zip(requested, matches)
        if population is None
    )
    if not any(matches):
        first = Population(study.learning_method, *requested[0], ())
        raise UserError(
            f"no pruned networks in {study.folder} to compare with {dense}: {missing}; there are: "
            f"{kinds_in(study.folder, study.learning_method)}; {script_remedy(first)}"
        )
    if missing:
        logger.info(f"not found, left out: {missing}")
    populations = [dense, *filter(None, matches)]
    one_shot = [population for population in populations if population.method.schedule == "one-shot"]
    if one_shot and CONTROL not in requested and (control := find_control(study, dense, one_shot)):
        populations.insert(1, control)
    return populations


def refuse_other_results(
    study: Study, populations: list[Population], probed: list[list[int]] | None = None
) -> None:
    """Refuses to overwrite stored results of different networks, or to add results beside them. Otherwise
    results would be lost, or one table would mix two dense populations.

    Results of the same networks on different test images or in an older format are recomputed.

    Args:
        populations: the dense one first; probed: for depths, the network ids of each population.
    Raises:
        UserError: the folder holds results of different networks.
    """
    dense, folder = populations[0], study.method_folder / "populations"
    by_kind = {kind_of(population): population for population in populations}
    ids_of_file = {f"{kind}_depth": ids for kind, ids in zip(by_kind, probed or ())}
    paths = folder.glob("[!.]*.npz")  # skips temporary files of other processes
    for path in sorted(paths, key=lambda path: (not path.stem.startswith("dense"), path)):
        stored = read_arrays(path, only=("made", "settings", "row", "ids"))
        if stored is None:  # unreadable files are recomputed
            continue
        stored_kind = path.stem.removesuffix("_depth")
        stored_inputs, population = json.loads(str(stored["made"])), by_kind.get(stored_kind)
        current_inputs = made_from(study, population or dense, dense)
        if folder.parents[2].name == "test_sets" and stored_inputs["data"] != current_inputs["data"]:
            raise UserError(
                f"{folder} holds results of other images; rename the test set, or move "
                f"{folder.parents[1]} away"
            )
        # A population outside this comparison only has to share the dense networks and the images.
        del current_inputs["data" if population else "checkpoints"]
        changed = changed_settings(study, population, stored) if population else []
        if current_inputs.items() <= stored_inputs.items() and not changed:
            stored_ids = stored["ids"].tolist()
            current_ids = ids_of_file.get(path.stem, stored_ids)
            if {*stored_ids} <= {*current_ids}:
                continue
            changed = [
                f"depths of ids {show_ids(stored_ids)}, now {show_ids(current_ids)}: give "
                f"--prediction_depth_models {len(stored_ids)}"
            ]
        if not changed:
            side, words = ("checkpoints", "") if population else ("dense_checkpoints", "dense ")
            counts = f"{len(stored_inputs[side])} {words}networks"
            changed = [f"{counts}, now {len((population or dense).members)}; ids, images or trainings differ"]
        raise UserError(
            f"{folder} holds results of other {stored_kind} networks ({', '.join(changed)}); write these to "
            f"a separate folder (--run NAME, in the PIE and depth scripts), or move {folder.parent} out of "
            f"{folder.parents[1]}"
        )


def changed_settings(study: Study, population: Population, stored: dict) -> list[str]:
    """Lists settings of stored results that differ from the population's, as `key stored, not current`."""
    stored_settings, row = (json.loads(str(stored[name])) for name in ("settings", "row"))
    stored_settings |= {key: row.get(key) for key in ("normalization", "architecture")}
    current = population.settings | {
        "normalization": study.data.normalization_text,
        "architecture": study.architecture_name,
    }
    # A setting missing on one side was added to the code after the older of the two.
    return [
        f"{key} {old}, not {new}"
        for key, (old, new) in differences(stored_settings, current).items()
        if None not in (old, new) or key == "external"
    ]


def evaluations(study: Study, population: Population) -> list[Job]:
    """Returns one evaluation job per network."""
    ids = umap_ids(study, population)
    return [
        Job(
            evaluation.evaluation_path(study, member),
            partial(evaluation.evaluate, study, member, member.id in ids),
        )
        for member in population.members
    ]


def probes(study: Study, population: Population, ids: list[int]) -> list[Job]:
    """Returns one probing job for each network with one of these ids."""
    return [
        Job(evaluation.probe_path(study, member), partial(evaluation.probe, study, member))
        for member in population.members
        if member.id in ids
    ]


def umap_ids(study: Study, population: Population) -> list[int]:
    """Returns the first --umap_models ids, whose latents the UMAP averages; none without --plot_umap."""
    count = getattr(study.flags, "umap_models", 0) if study.flags.plot_umap else 0
    return population.ids[:count]


def shared_ids(dense: Population, pruned: Population) -> list[int]:
    """Returns the ids that both populations share.

    Raises:
        UserError: they share none (possible only with --allow_missing).
    """
    ids = {*dense.ids} & {*pruned.ids}
    if not ids:
        raise UserError(
            f"{dense} and {pruned} share no id; train the missing networks instead of giving --allow_missing"
        )
    return sorted(ids)


def evaluate_population(study: Study, population: Population) -> PopulationOutputs:
    """Evaluates the networks of a population and stacks their outputs."""
    networks = [job.work() for job in evaluations(study, population)]
    outputs = {name: np.stack([network[name] for network in networks]) for name in OUTPUTS}
    return PopulationOutputs(population, outputs)


def voting_predictions(dense: PopulationOutputs, pruned: PopulationOutputs) -> list[np.ndarray]:
    """Returns predictions (K, N) of the dense and the pruned networks whose ids both populations share.
    Unequal numbers of voters would by themselves change modal labels."""
    _, *rows = np.intersect1d(dense.ids, pruned.ids, return_indices=True)
    return [side.predictions[chosen] for side, chosen in zip((dense, pruned), rows)]


def measure(
    dense: PopulationOutputs, pruned: PopulationOutputs, labels: np.ndarray, classes: int
) -> PopulationMetrics:
    """Measures PIEs, votes, recalls and Q-Scores of a pruned population, or the dense one itself, against the
    dense one. Only networks whose ids both populations share vote.

    Args:
        labels: (N,) true classes.
    Returns:
        arrays: labels (N,); those of `metrics.disagreement`; for each side (dense names begin with `dense_`)
        q_score, z_score and l1_norm (N,) averaged over the networks, ids, evaluations and accuracy (K,),
        recall (K, classes); pies_per_class (classes,); gallery, indices of the most confident PIEs, equal
        ones in random order; the arrays of `lost_and_kept`; if recorded, movement (K, L) of the
        movement_layers (L,).
    """
    voters = voting_predictions(dense, pruned)
    arrays = {"labels": labels, "images": len(labels), **metrics.disagreement(*voters, classes)}
    for prefix, side in (("", pruned), ("dense_", dense)):
        side_arrays = {
            **{part: metrics.mean_over_defined(side.outputs[part]) for part in PARTS},
            "ids": side.ids,
            "evaluations": [member.paths[0].stem for member in side.population.members],
            "recall": metrics.class_recalls(side.predictions, labels, classes),
            "accuracy": (side.predictions == labels).mean(1),
        }
        arrays |= {f"{prefix}{name}": value for name, value in side_arrays.items()}
    is_pie, confidence = arrays["is_pie"], arrays["confidence"]
    images = np.random.default_rng(0).permutation(np.flatnonzero(is_pie))  # mixes the classes of a folder
    measures = lost_and_kept(dense, pruned, labels, is_pie)
    changes = metrics.lost_and_gained(arrays["dense_modal_labels"], arrays["modal_labels"], labels)
    counts = {f"{name}_pies": int(chosen.sum()) for name, chosen in changes.items()}
    arrays |= {
        **measures,
        **counts,
        "pies_per_class": metrics.pies_per_class(is_pie, labels, classes),
        "gallery": images[np.argsort(-confidence[images], kind="stable")][:GALLERY],
    }
    records = [member.record or {} for member in pruned.population.members]
    movements = [record.get("movement") for record in records]
    if all(movements):
        layers = [layer for layer in movements[0] if all(layer in movement for movement in movements)]
        arrays["movement_layers"] = [layer_name(layer) for layer in layers]
        arrays["movement"] = np.array([[movement[layer] for layer in layers] for movement in movements])
    accuracy = arrays["accuracy"]
    before = [record["accuracy_as_pruned"] for record in records if "accuracy_as_pruned" in record]
    columns = {
        "accuracy_mean": accuracy.mean(),
        "accuracy_std": accuracy.std(ddof=1) if len(accuracy) > 1 else None,
        "accuracy_before_finetuning_mean": np.mean(before) if before else None,
        "pies": int(is_pie.sum()),
        "voters": len(voters[1]),
        **counts,
        "ties_dense": int(arrays["dense_tied"].sum()),
        "ties_pruned": int(arrays["tied"].sum()),
        "zero_latents": int(pruned.outputs["zero_latents"].sum()),
        **_means(measures),
    }
    for part in PARTS:
        columns |= mean_over_pies_and_rest(part, arrays[part], arrays[f"dense_{part}"], is_pie)
    return PopulationMetrics(arrays, columns)


def lost_and_kept(
    dense: PopulationOutputs, pruned: PopulationOutputs, labels: np.ndarray, is_pie: np.ndarray
) -> dict[str, np.ndarray]:
    """Measures what pruning loses and keeps.

    Returns:
        accuracies on PIEs and on the rest, auroc_q_score and calibration_error (K,); `agreement` and `cka`
        over pairs of a pruned and a dense network with the same seed, `_others` with the next seed (K',);
        `pie_auroc_q_score` (); `probability_change` (N,).
    """
    predictions, wrong = pruned.predictions, pruned.predictions != labels
    measures = {
        "accuracy_pies": metrics.accuracy_on(is_pie, predictions, labels),
        "dense_accuracy_pies": metrics.accuracy_on(is_pie, dense.predictions, labels),
        "accuracy_rest": metrics.accuracy_on(~is_pie, predictions, labels),
        "dense_accuracy_rest": metrics.accuracy_on(~is_pie, dense.predictions, labels),
        "auroc_q_score": [*map(metrics.auroc, -pruned.outputs["q_score"], wrong)],
        "pie_auroc_q_score": metrics.auroc(-metrics.mean_over_defined(pruned.outputs["q_score"]), is_pie),
        "calibration_error": [
            metrics.calibration_error(logits, labels) for logits in pruned.outputs["log_probabilities"]
        ],
    }
    _, dense_rows, pruned_rows = np.intersect1d(dense.ids, pruned.ids, return_indices=True)
    others = np.roll(dense_rows, -1) if len(dense_rows) > 1 else []
    for suffix, partners in (("", dense_rows), ("_others", others)):
        for name, similarity, output in (
            ("agreement", metrics.agreement, "predictions"),
            ("cka", metrics.linear_cka, "latent_sample"),
        ):
            pairs = zip(pruned.outputs[output][pruned_rows], dense.outputs[output][partners])
            measures[f"{name}{suffix}"] = [similarity(*pair) for pair in pairs]
    probabilities = (
        np.exp(side.outputs["log_probabilities"][rows].astype(np.float32))
        for side, rows in ((dense, dense_rows), (pruned, pruned_rows))
    )
    measures["probability_change"] = metrics.probability_changes(*probabilities)
    return {name: np.array(values) for name, values in measures.items()}


def measure_depths(
    dense: list[dict], pruned: list[dict], labels: np.ndarray, is_pie: np.ndarray
) -> PopulationMetrics:
    """Measures prediction depth by both definitions, separately for PIEs.

    Args:
        dense, pruned: results of `probe` for M networks each; labels: (N,) true classes; is_pie: (N,).
    Returns:
        arrays: {dense,pruned}_depth_{prediction,label} (M, N); is_pie; places, the number of probe layers;
        for the pruned networks knn_accuracy and auroc_depth (M,), and pie_auroc_depth ().
    """
    layers = len(pruned[0]["knn"])
    arrays = {"is_pie": is_pie, "places": layers}
    for side, networks in (("dense", dense), ("pruned", pruned)):
        depths = [metrics.prediction_depth(network["knn"], network["predictions"]) for network in networks]
        arrays[f"{side}_depth_prediction"] = np.stack(depths)
        depths = [metrics.label_prediction_depth(network["knn"], labels) for network in networks]
        arrays[f"{side}_depth_label"] = np.stack(depths)
    wrong = (network["predictions"] != labels for network in pruned)
    measures = {
        "knn_accuracy": [(network["knn"][-1] == labels).mean() for network in pruned],
        "auroc_depth": [*map(metrics.auroc, arrays["pruned_depth_prediction"], wrong)],
        "pie_auroc_depth": metrics.auroc(arrays["pruned_depth_prediction"].mean(0), is_pie),
    }
    arrays |= measures
    columns = {"pies": int(is_pie.sum()), "depth_models": len(pruned), **_means(measures)}
    for target, column in DEPTH_COLUMNS.items():
        means = (arrays[f"{side}_depth_{target}"].mean(0) for side in ("pruned", "dense"))
        columns |= mean_over_pies_and_rest(column, *means, is_pie)
    columns["never_agreeing"] = int((arrays["pruned_depth_prediction"] == layers).sum())
    return PopulationMetrics(arrays, columns)


def _means(measures: dict) -> dict[str, float | None]:
    """Returns the mean of each array or list, ignoring NaN; None if all values are NaN."""
    means = {}
    for name, values in measures.items():
        defined = np.asarray(values)[~np.isnan(values)]
        means[name] = defined.mean() if len(defined) else None
    return means


def mean_over_pies_and_rest(
    column: str, pruned: np.ndarray, dense: np.ndarray, is_pie: np.ndarray
) -> dict[str, float | None]:
    """Returns means and standard deviations (n in the denominator) of (N,) values over PIEs, over the rest,
    and over all images, ignoring NaN."""
    columns = {}
    for prefix, values in (("", pruned), ("dense_", dense)):
        for group, chosen in (("pies", is_pie), ("rest", ~is_pie), ("all", is_pie | True)):
            defined = values[chosen & ~np.isnan(values)]
            columns[f"{prefix}{column}_{group}"] = defined.mean() if len(defined) else None
            columns[f"{prefix}{column}_std_{group}"] = defined.std() if len(defined) else None
    return columns


def store(
    study: Study,
    populations: list[Population],
    measured: list[PopulationMetrics],
    probed: list[list[int]] | None = None,
) -> list[dict]:
    """Stores the measurements of populations, the dense one first, and rebuilds the table; returns their
    rows.

    Args:
        probed: for prediction depths, the network ids of each population.
    Raises:
        UserError: another process has meanwhile stored results of different networks.
    """
    dense, folder = populations[0], study.method_folder / "populations"
    refuse_other_results(study, populations, probed)
    suffix, rows = "" if probed is None else "_depth", []
    for population, outcome in zip(populations, measured):
        columns = outcome.columns
        if population is dense:  # it has nothing to be compared with
            columns = {
                name: value
                for name, value in columns.items()
                if not (name.startswith("dense_") or name.endswith("pies") or name in PRUNED_ONLY_COLUMNS)
            }
        row = population_row(study, population, dense) | columns
        description = {
            "title": title(study, population, dense),
            "architecture": str(study.architecture),
            "settings": json.dumps(population.settings),
            "data_title": study.data.title,
            "class_names": study.data.class_names,
            "runs": json.dumps(runs(population)),
            "dense_runs": json.dumps(runs(dense)),
            "row": json.dumps(row),
            **{name: row[name] for name in (*KEY_COLUMNS, "population")},
        }
        if "gallery" in outcome.arrays:
            description["gallery_images"] = study.data.test_images[outcome.arrays["gallery"]].cpu().numpy()
        path = folder / f"{kind_of(population)}{suffix}.npz"
        write_arrays(path, {**description, **outcome.arrays}, made_from(study, population, dense))
        rows.append(row)
    table = {row_key(row): row for row in make_table(study.results_folder)}
    return [table.get(row_key(row), row) for row in rows]


def kind_of(population: Population) -> str:
    """Returns the pruning method and sparsity, as in file names."""
    return f"{population.pruning_method}_{population.sparsity}"


def made_from(study: Study, population: Population, dense: Population) -> dict:
    """Returns the inputs of a comparison; stored results are valid only for the same ones."""
    return {
        "checkpoints": population.checksums,
        "dense_checkpoints": dense.checksums,
        "data": study.data.evaluated,
    }


def population_row(study: Study, population: Population, dense: Population) -> dict:
    """Returns the columns that identify a row's networks and the dense ones they are compared with."""

    def identity(*populations: Population) -> str:
        parts = [FORMAT, study.data.evaluated, *(population.checksums for population in populations)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    return {
        "learning_method": study.learning_method,
        "pruning_method": population.pruning_method,
        "sparsity": population.sparsity,
        "dense_population": identity(dense),
        **{f"dense_{fact}": value for fact, value in dense.facts().items()},
        "models": len(population.members),
        "dense_models": len(dense.members),
        "origin": origin_of(population.records, dense.records),
        "architecture": study.architecture_name,
        **population.facts(),
        "unpublished": "not known" if population.external else in_words(population.non_default_settings),
        "normalization": study.data.normalization_text,
        "population": identity(population, dense),
    }


def runs(population: Population) -> dict:
    """Returns the provenance of a population's networks: commands, devices, versions, days, seeds.

    seconds: their total training time, without that of the dense networks they were pruned from.
    """
    records = [record for record in population.records if (record or {}).get("run")]
    all_runs = [record["run"] for record in records]
    timed = all_runs
    # Encoder and head are pruned together, and both records hold the same seconds: count them once.
    if not population.method.trained_alone:
        timed = [member.record["run"] for member in population.members if member.record in records]
    texts = {
        "commands": [run.get("command") for run in all_runs],
        "devices": [f"{run.get('device')}, threads: {run.get('threads')}" for run in all_runs],
        "versions": [", ".join(map(" ".join, run.get("versions", {}).items())) for run in all_runs],
        "days": sorted(str(run.get("written"))[:10] for run in all_runs),
    }
    return {
        **{name: list(dict.fromkeys(values)) for name, values in texts.items()},
        "seeds": sorted({record["seed"] for record in records if "seed" in record}),
        "seconds": sum(run.get("seconds", 0) for run in timed),
        "networks": len(population.members),
        "made_elsewhere": sum(member.external for member in population.members),
        "analysis": process.command_line(),
    }


def draw_pies(study: Study, dense: Population, population: Population, arrays: dict) -> None:
    """Draws PIEs per class and, if requested, Q-Scores and the UMAP; for the dense population its UMAP."""
    flags = study.flags
    inputs, name = made_from(study, population, dense), figure_name(study, population)
    common_arrays = {"title": title(study, population, dense), "class_names": study.data.class_names}
    if population is not dense:
        common_arrays["is_pie"] = arrays["is_pie"]
        counts = {"pies_per_class": arrays["pies_per_class"], "images": arrays["images"]}
        draw_figure(study, f"pies_distribution/{name}", {**common_arrays, **counts}, inputs)
        if flags.plot_q_score:
            quality = {f"dense_{part}": arrays[f"dense_{part}"] for part in PARTS}
            quality |= {f"pruned_{part}": arrays[part] for part in PARTS}
            quality["networks"] = population.role
            draw_figure(study, f"q_score/{name}", {**common_arrays, **quality}, inputs)
    if flags.plot_umap:
        ids = umap_ids(study, population)
        path = f"umap/{name}_{len(ids)}latents"
        inputs |= {"umap_models": ids, "umap_seed": UMAP_SEED, "code": evaluation.code()}
        umap_arrays = read_arrays(study.method_folder / f"{path}.npz", inputs)  # UMAP is slow
        if umap_arrays is None:
            networks = [job.work() for job in evaluations(study, population)[: len(ids)]]
            umap_arrays = {
                "coordinates": umap_coordinates(np.mean([network["latent"] for network in networks], 0))
            }
        source = f"latents of id {ids[0]}" if len(ids) == 1 else f"latents averaged over {len(ids)} networks"
        common_arrays["title"] += f"\nUMAP of {source}"
        common_arrays |= {"coordinates": umap_arrays["coordinates"], "modal_labels": arrays["modal_labels"]}
        draw_figure(study, path, common_arrays, inputs)


def umap_coordinates(latent: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, 2) by UMAP, seeded: the same latents give the same picture.

    Raises:
        UserError: distances between latents that are not finite, or an error in UMAP.
    """
    if not np.square(latent, dtype=np.float64).sum(1).max() < np.finfo(np.float32).max / 4:
        raise UserError("--plot_umap: distances between these latents are not finite; leave it out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import umap

            model = umap.UMAP(n_neighbors=min(15, len(latent) - 1), random_state=UMAP_SEED, n_jobs=1)
            return model.fit_transform(latent).astype(np.float32)
    except Exception as error:  # numba, scikit-learn and pynndescent raise many types
        if "cannot cache" in str(error) and process.cache_compiled_code():
            return umap_coordinates(latent)
        raise UserError(f"--plot_umap: UMAP failed ({type(error).__name__}: {error}); leave it out") from None


def draw_depths(study: Study, dense: Population, population: Population, arrays: dict) -> None:
    """Draws dense against pruned depth, by the definition of --depth_target, averaged over the networks."""
    target = study.flags.depth_target
    figure_arrays = {
        "title": f"{title(study, population, dense)}\n"
        f"layer from which the k-NN agrees with the {DEFINITIONS[target]}; {len(arrays['ids'])} networks",
        "places": arrays["places"],
        "is_pie": arrays["is_pie"],
        "dense_depth": arrays[f"dense_depth_{target}"].mean(0),
        "pruned_depth": arrays[f"pruned_depth_{target}"].mean(0),
        "networks": population.role,
    }
    name = f"prediction_depth/{figure_name(study, population)}_{target}"
    draw_figure(study, name, figure_arrays, made_from(study, population, dense))


def draw_figure(study: Study, name: str, arrays: dict, made: dict) -> None:
    """Draws pies/NAME/METHOD/KIND/....png and stores its arrays beside it, unless --not_serialize_plots.

    Args:
        name: KIND/..., where KIND is the kind of figure.
        made: the inputs that the figure depends on.
    """
    from common import plots

    path = study.method_folder / f"{name}.npz"
    arrays = {"figure": path.parent.name, **{key: np.asarray(value) for key, value in arrays.items()}}
    if getattr(study.flags, "not_serialize_plots", False):
        path.unlink(missing_ok=True)
    else:
        write_arrays(path, arrays, made)
    picture = path.with_suffix(".png")
    plots.save_figure(picture, plots.draw(arrays))
    logger.info("figure: %s", picture)


def figure_name(study: Study, population: Population) -> str:
    """Returns the stem of file names of a population's figures."""
    return f"{study.architecture_name}_{kind_of(population)}sparsity_{len(population.members)}models"


def title(study: Study, population: Population, dense: Population) -> str:
    """Returns the title of a figure: data set, learning method, pruning and sparsity; below them the number
    of networks and the `TITLE_SETTINGS` that differ from the published ones."""
    external = ", dense external" if dense.external else ""
    if population.external:
        external = ", external"
    projection_head = study.architecture.projection_head
    head = "" if projection_head == "mlp" else f", {projection_head} head"
    lines = [
        f"{study.data.title} · {study.learning_method} · "
        f"{with_sparsity(population.pruning_method, population.sparsity)}",
        f"{len(population.members)} networks ({study.architecture}{head}{external})",
    ]
    shown, dense_shown = (
        {key: value for key, value in side.non_default_settings.items() if key in TITLE_SETTINGS}
        for side in (population, dense)
    )
    if population.method.finetuned and dense_shown:
        parts = [f"dense: {in_words(dense_shown)}", shown and f"{population.role}: {in_words(shown)}"]
        lines.append("; ".join(filter(None, parts)))
    elif shown:
        lines.append(in_words(shown))
    return "\n".join(lines)


def in_words(settings: dict) -> str:
    """Formats settings as `epochs 5, batch_size 256`."""
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def show_table(study: Study, rows: list[dict]) -> None:
    """Logs rows of the table."""
    logger.info("%s\nall columns: %s", format_table(rows), table_path(study.results_folder))
