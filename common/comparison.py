"""The later stages of the clr_ and sup_ scripts: find all populations, compute all, measure, store and
draw."""

import hashlib
import json
import warnings
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from common import metrics, neighbours, process
from common.cli import UserError, logger, one_line
from common.data import ImageDataset
from common.methods import FINETUNED, parse_method, with_sparsity
from common.pruning import layer_name
from common.store import evaluation
from common.store.files import FORMAT, differences, read_arrays, write_arrays
from common.store.names import kinds_in
from common.store.populations import Population, find_control, find_population, how_to_train
from common.store.records import origin_of
from common.store.runs import Job, share
from common.store.table import KEY_COLUMNS, format_table, make_table, row_key, table_path
from common.study import Study

UMAP_SEED = 0
UMAP_IMAGES = 10
CONTROL = (FINETUNED, 0.0)  # its pruning method and sparsity
PARTS = ("q_score", "z_score", "l1_norm")
OUTPUTS = ("predictions", *PARTS, "log_probabilities", "latent_sample")  # of each network
DEPTH_COLUMNS = {"prediction": "depth", "label": "label_depth"}
PRUNED_ONLY_COLUMNS = (
    "ties_pruned",
    "agreement",
    "cka",
    "probability_change",
)  # columns that say nothing of dense networks
TITLE_SETTINGS = ("epochs", "batch_size", "learning_rate", "temperature")  # settings
DEFINITIONS = {"prediction": "network's final prediction", "label": "true label, as published"}
GALLERY = 48  # images of PIEs that are stored, those of the most confident disagreement


@dataclass(frozen=True)
class PopulationOutputs:
    """What the K networks of a population give for the N test images.

    outputs: predictions, q_score, z_score and l1_norm (K, N), log_probabilities (K, N, C), latent_sample (K,
    S, D); zero_latents: how many latents of zeros have no Q-Score.
    """

    population: Population
    outputs: dict[str, np.ndarray]
    zero_latents: int

    @property
    def ids(self) -> list[int]:
        return [member.id for member in self.population.members]

    @property
    def predictions(self) -> np.ndarray:
        return self.outputs["predictions"]


@dataclass(frozen=True)
class PopulationMetrics:
    """What is stored of a population: arrays, and its columns of the table."""

    arrays: dict[str, np.ndarray]
    columns: dict[str, float | None]


def detect_pies(study: Study) -> None:
    """PIEs, their classes, Q-Scores and UMAPs of every pruned population against the dense one."""
    labels, classes = study.data.test_labels.cpu().numpy(), len(study.data.class_names)
    # 1. Find all.
    if study.flags.plot_umap:
        check_umap_images(len(labels))
    populations = find_populations(study)
    refuse_other_results(study, populations)
    # 2. Compute all, together with whoever else works on them.
    if not share(study, [job for population in populations for job in evaluations(study, population)]):
        return  # a worker
    # 3. Measure, with two populations in memory at once.
    dense = evaluate_population(study, populations[0])
    measured = [measure(dense, dense, labels, classes)]
    for population in populations[1:]:
        measured.append(measure(dense, evaluate_population(study, population), labels, classes))
    for outcome in measured:
        outcome.arrays["pie_images"] = image_names(study.data, outcome.arrays["is_pie"])
    # 4. Store, then draw what can be drawn.
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
    """Prediction depth of every pruned population against the dense one, PIEs apart."""
    labels, classes = study.data.test_labels.cpu().numpy(), len(study.data.class_names)
    if (images := len(study.data.train_images)) < neighbours.NEIGHBOURS:
        needed = f"prediction depth needs at least {neighbours.NEIGHBOURS} training images"
        raise UserError(f"{needed}, {study.data.name} has {images}")
    # 1. Find all; of each pair the networks whose ids both have.
    dense, *_ = populations = find_populations(study)
    ids = [first_ids(study, dense, population) for population in populations]
    refuse_other_results(study, populations, ids)
    # 2. Compute all, together with whoever else works on them.
    jobs = [job for population in populations for job in evaluations(study, population)]
    jobs += [job for population, wanted in zip(populations, ids) for job in probes(study, population, wanted)]
    if not share(study, jobs):
        return  # a worker
    # 3. Measure.
    measured, outputs = [], evaluate_population(study, dense)
    for population, wanted in zip(populations, ids):
        voters = voting_predictions(outputs, evaluate_population(study, population))
        is_pie = metrics.find_pies(*voters, classes)
        networks = ([job.work() for job in probes(study, side, wanted)] for side in (dense, population))
        measured.append(measure_depths(*networks, labels, is_pie))
        measured[-1].arrays["ids"] = wanted
    # 4. Store, then draw.
    rows = store(study, populations, measured, ids)
    for population, outcome in zip(populations[1:], measured[1:]):
        draw_depths(study, dense, population, outcome.arrays)
    show_table(study, rows)


def find_populations(study: Study) -> list[Population]:
    """The dense population, and all others that flags ask for and of which there is a network; with one-shot
    networks their finetuned control, where there is one.

    All are found before the first network is evaluated: what is wrong is said at once.

    Raises:
        UserError: there is no pruned network.
    """
    dense = find_population(study, "dense", 0.0)
    asked = requested_kinds(study)
    found = [find_population(study, *kind, dense) for kind in asked]
    absent = ", ".join(
        f"{method} {sparsity}" for (method, sparsity), population in zip(asked, found) if population is None
    )
    if not any(found):
        first = Population(study.learning_method, *asked[0], ())
        raise UserError(
            f"no pruned networks in {study.folder} to compare with {dense}: {absent}; there are: "
            f"{kinds_in(study.folder)}; {how_to_train(first, range(study.flags.models_number))}"
        )
    if absent:
        logger.info(f"absent: {absent}")
    populations = [dense, *filter(None, found)]
    one_shot = [each for each in populations if parse_method(each.pruning_method).schedule == "one-shot"]
    if one_shot and CONTROL not in asked and (control := find_control(study, dense, one_shot)):
        populations.insert(1, control)
    return populations


def requested_kinds(study: Study) -> list[tuple[str, float]]:
    """(pruning method, sparsity) of all that flags ask for; finetuned networks are at sparsity 0 alone."""
    names = study.flags.pruning_methods
    pruned = [name for name in names if name != FINETUNED]
    return [CONTROL] * (FINETUNED in names) + [*product(pruned, study.flags.pruning_percentages)]


def refuse_other_results(
    study: Study, populations: list[Population], probed: list[list[int]] | None = None
) -> None:
    """Refuses to write over, or beside, stored results of other networks: nothing is lost, and the table
    never mixes two dense populations.

    Results of the same networks on other test images, or of an older format, are made again.

    Args:
        populations: the dense one first; probed: where depths are stored, the ids of the networks.
    Raises:
        UserError: there are such results.
    """
    dense, folder = populations[0], study.method_folder / "populations"
    asked = {kind_of(population): population for population in populations}
    ids = dict(zip(asked, probed or ()))
    paths = folder.glob("[!.]*.npz")  # not what another script is writing there
    for path in sorted(paths, key=lambda path: (not path.stem.startswith("dense"), path)):
        stored = read_arrays(path, only=("made", "settings", "row", "ids"))
        if stored is None:  # a torn file is computed again
            continue
        kind = path.stem.removesuffix("_depth")
        found, population = json.loads(str(stored["made"])), asked.get(kind)
        wanted = made_from(study, population or dense, dense)
        # Of what is not compared now only the dense networks and the images have to be these.
        del wanted["data" if population else "checkpoints"]
        if path.stem != kind and kind in ids:
            found["probed"], wanted["probed"] = stored["ids"].tolist(), ids[kind]
        changed = changed_settings(study, population, stored) if population else []
        if wanted.items() <= found.items() and not changed:
            continue
        if not changed:
            counts = f"{len(found['checkpoints'])} networks"
            changed = [f"{counts}, now {len((population or dense).members)}; other ids, images or trainings"]
        raise UserError(
            f"{folder} holds results of other {kind} networks ({', '.join(changed)}); give these a place of "
            "their own (--run NAME)"
        )


def changed_settings(study: Study, population: Population, stored: dict) -> list[str]:
    """`key found, not asked` of the settings in which stored results differ from those of a population."""
    found, row = (json.loads(str(stored[name])) for name in ("settings", "row"))
    found["normalization"] = row.get("normalization")
    settings = population.settings | {"normalization": study.data.normalization_text}
    # A setting that one of them lacks is younger than the other.
    return [
        f"{key} {old}, not {new}"
        for key, (old, new) in differences(found, settings).items()
        if None not in (old, new) or key == "external"
    ]


def evaluations(study: Study, population: Population) -> list[Job]:
    """The evaluation of each network, to be shared."""
    ids = umap_ids(study, population)
    return [
        Job(
            evaluation.evaluation_path(study, member),
            partial(evaluation.evaluate, study, member, member.id in ids),
        )
        for member in population.members
    ]


def probes(study: Study, population: Population, ids: list[int]) -> list[Job]:
    """The probing of the networks with these ids, to be shared."""
    return [
        Job(evaluation.probe_path(study, member), partial(evaluation.probe, study, member))
        for member in population.members
        if member.id in ids
    ]


def umap_ids(study: Study, population: Population) -> list[int]:
    """The ids whose latents the UMAP averages, the first --umap_models; none without --plot_umap."""
    wanted = getattr(study.flags, "umap_models", 0) if study.flags.plot_umap else 0
    return [member.id for member in population.members][:wanted]


def first_ids(study: Study, *populations: Population) -> list[int]:
    """The first --prediction_depth_models ids that all the populations have.

    Raises:
        UserError: there is none (with --allow_missing only).
    """
    ids = set.intersection(*({member.id for member in population.members} for population in populations))
    if not ids:
        raise UserError(
            f"no id is in all of: {'; '.join(map(str, populations))}; train the missing ones instead of "
            "--allow_missing"
        )
    return sorted(ids)[: study.flags.prediction_depth_models]


def evaluate_population(study: Study, population: Population) -> PopulationOutputs:
    """What the networks of a population give together."""
    networks = [job.work() for job in evaluations(study, population)]
    zero_latents = int(sum(network["zero_latents"] for network in networks))
    outputs = {name: np.stack([network[name] for network in networks]) for name in OUTPUTS}
    return PopulationOutputs(population, outputs, zero_latents)


def voting_predictions(dense: PopulationOutputs, pruned: PopulationOutputs) -> list[np.ndarray]:
    """Predictions (K, N) of the dense and pruned networks of the ids that both have: with more voters on one
    side labels would differ for that alone. Of all networks where they share no id."""
    shared, *rows = np.intersect1d(dense.ids, pruned.ids, return_indices=True)
    sides = [dense.predictions, pruned.predictions]
    return [side[chosen] for side, chosen in zip(sides, rows)] if len(shared) else sides


def measure(
    dense: PopulationOutputs, pruned: PopulationOutputs, labels: np.ndarray, classes: int
) -> PopulationMetrics:
    """PIEs, votes, recalls and Q-Scores of a pruned population, or the dense one itself, against the dense
    one; PIEs and votes of the networks whose ids both have.

    Args:
        labels: (N,) true classes.
    Returns:
        arrays: of N images is_pie, and labels; of each side (the dense one's names begin with `dense_`)
        modal_labels, tied and votes for the modal label (N,), q_score, z_score and l1_norm (N,) averaged over
        the networks, ids, evaluations and accuracy (K,), recall (K, classes); confidence of the disagreement
        (N,); pies_per_class (classes,); gallery, the images of the most confident PIEs; what `MEASURES` of
        common/store/table.py names; where records have it movement (K, L) of the movement_layers (L,).
    """
    arrays = {"labels": labels, "images": len(labels)}
    voters = voting_predictions(dense, pruned)
    sure = metrics.disagreement(*voters, classes)
    for prefix, side, votes in (("", pruned, voters[1]), ("dense_", dense, voters[0])):
        modal_labels, tied = metrics.modal_labels(votes, classes)
        facts = {
            "modal_labels": modal_labels,
            "tied": tied,
            "votes": sure[f"{prefix or 'pruned_'}agreeing"],
            **{part: metrics.mean_over_defined(side.outputs[part]) for part in PARTS},
            "ids": side.ids,
            "evaluations": [member.paths[0].stem for member in side.population.members],
            "recall": metrics.class_recalls(side.predictions, labels, classes),
            "accuracy": (side.predictions == labels).mean(1),
        }
        arrays |= {f"{prefix}{name}": value for name, value in facts.items()}
    is_pie = metrics.find_pies(*voters, classes)
    confidence, images = sure["confidence"], np.flatnonzero(is_pie)
    measures = lost_and_kept(dense, pruned, labels, is_pie)
    changes = metrics.lost_and_gained(arrays["dense_modal_labels"], arrays["modal_labels"], labels)
    counts = {f"{name}_pies": int(chosen.sum()) for name, chosen in changes.items()}
    arrays |= {
        **measures,
        **counts,
        "is_pie": is_pie,
        "confidence": confidence,
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
        "zero_latents": pruned.zero_latents,
        **_means(measures),
    }
    for part in PARTS:
        columns |= mean_over_pies_and_rest(part, arrays[part], arrays[f"dense_{part}"], is_pie)
    return PopulationMetrics(arrays, columns)


def lost_and_kept(
    dense: PopulationOutputs, pruned: PopulationOutputs, labels: np.ndarray, is_pie: np.ndarray
) -> dict[str, np.ndarray]:
    """What pruning loses and keeps: the (K,) arrays of `MEASURES`, those over the networks of one seed or of
    one and the next seed (K',), `pie_auroc_q_score` () and the images' `probability_change` (N,)."""
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
    shared = sorted({*dense.ids} & {*pruned.ids})
    own, same = ([side.ids.index(model_id) for model_id in shared] for side in (pruned, dense))
    for suffix, other in (("", same), ("_others", same[1:] + same[:1] if len(same) > 1 else [])):
        for name, alike, output in (
            ("agreement", metrics.agreement, "predictions"),
            ("cka", metrics.linear_cka, "latent_sample"),
        ):
            pairs = zip(pruned.outputs[output][own], dense.outputs[output][other])
            measures[f"{name}{suffix}"] = [alike(*pair) for pair in pairs]
    log_probabilities = (
        side.outputs["log_probabilities"][rows] for side, rows in ((dense, same), (pruned, own))
    )
    probabilities = (np.exp(each.astype(np.float32)) for each in log_probabilities)
    measures["probability_change"] = metrics.probability_changes(*probabilities)
    return {name: np.array(values) for name, values in measures.items()}


def measure_depths(
    dense: list[dict], pruned: list[dict], labels: np.ndarray, is_pie: np.ndarray
) -> PopulationMetrics:
    """Prediction depth by both definitions, PIEs apart.

    Args:
        dense, pruned: what `probe` gives of M networks of each; labels: (N,) true classes; is_pie: (N,).
    Returns:
        arrays: {dense,pruned}_depth_{prediction,label} (M, N); is_pie; places, how many probe layers; of the
        pruned networks knn_accuracy and auroc_depth (M,), and pie_auroc_depth ().
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
        "knn_accuracy": np.array([(network["knn"][-1] == labels).mean() for network in pruned]),
        "auroc_depth": np.array([*map(metrics.auroc, arrays["pruned_depth_prediction"], wrong)]),
        "pie_auroc_depth": np.array(metrics.auroc(arrays["pruned_depth_prediction"].mean(0), is_pie)),
    }
    arrays |= measures
    columns = {"pies": int(is_pie.sum()), "depth_models": len(pruned), **_means(measures)}
    for target, column in DEPTH_COLUMNS.items():
        means = (arrays[f"{side}_depth_{target}"].mean(0) for side in ("pruned", "dense"))
        columns |= mean_over_pies_and_rest(column, *means, is_pie)
    columns["never_agreeing"] = int((arrays["pruned_depth_prediction"] == layers).sum())
    return PopulationMetrics(arrays, columns)


def _means(measures: dict[str, np.ndarray]) -> dict[str, float | None]:
    """The mean of each array's defined values."""
    defined = {name: values[~np.isnan(values)] for name, values in measures.items()}
    return {name: float(values.mean()) if len(values) else None for name, values in defined.items()}


def mean_over_pies_and_rest(
    column: str, pruned: np.ndarray, dense: np.ndarray, is_pie: np.ndarray
) -> dict[str, float | None]:
    """Means and standard deviations (n in the denominator) of (N,) values over PIEs, over the rest, and over
    all images, of those that are defined."""
    columns = {}
    for prefix, values in (("", pruned), ("dense_", dense)):
        for group, chosen in (("pies", is_pie), ("rest", ~is_pie), ("all", is_pie | True)):
            defined = values[chosen & ~np.isnan(values)]
            columns[f"{prefix}{column}_{group}"] = float(defined.mean()) if len(defined) else None
            columns[f"{prefix}{column}_std_{group}"] = float(defined.std()) if len(defined) else None
    return columns


def image_names(data: ImageDataset, chosen: np.ndarray) -> np.ndarray:
    """What lists call the chosen (N,) test images: their files, below the data folder, or else indices."""
    indices = np.flatnonzero(chosen)
    return np.array([data.test_files[index] if data.test_files else index for index in indices], str)


def store(
    study: Study,
    populations: list[Population],
    measured: list[PopulationMetrics],
    probed: list[list[int]] | None = None,
) -> list[dict]:
    """Stores what was measured of populations, the dense one first, and makes the table anew; returns their
    rows.

    Args:
        probed: of prediction depths the ids of the networks.
    Raises:
        UserError: another process has stored results of other networks meanwhile.
    """
    dense, folder = populations[0], study.method_folder / "populations"
    refuse_other_results(study, populations, probed)
    suffix, rows = "" if probed is None else "_depth", []
    for population, outcome in zip(populations, measured):
        row = {**population_row(study, population, dense), **outcome.columns}
        if population is dense:  # compared with no other
            compared = [
                name for name in outcome.columns if name.startswith("dense_") or name.endswith("pies")
            ]
            row = {
                name: value for name, value in row.items() if name not in (*compared, *PRUNED_ONLY_COLUMNS)
            }
        facts = {
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
            facts["gallery_images"] = study.data.test_images[outcome.arrays["gallery"]].cpu().numpy()
        path = folder / f"{kind_of(population)}{suffix}.npz"
        depth_models = {name: row[name] for name in ("depth_models",) if name in row}
        made = {**made_from(study, population, dense), **depth_models}
        write_arrays(path, {**facts, **outcome.arrays}, made)
        rows.append(row)
    table = {row_key(row): row for row in make_table(study.results_folder)}
    return [table.get(row_key(row), row) for row in rows]


def kind_of(population: Population) -> str:
    """The pruning method and sparsity, in file names."""
    return f"{population.pruning_method}_{population.sparsity}"


def made_from(study: Study, population: Population, dense: Population) -> dict:
    """What results of a pruned population against a dense one depend on."""
    return {
        "checkpoints": population.checksums,
        "dense_checkpoints": dense.checksums,
        "data": study.data.evaluated,
    }


def population_row(study: Study, population: Population, dense: Population) -> dict:
    """The columns that say which networks a row is about and which dense ones they are compared with."""

    def identity(*populations: Population) -> str:
        parts = [FORMAT, study.data.evaluated, *(population.checksums for population in populations)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    return {
        "learning_method": study.learning_method,
        "pruning_method": population.pruning_method,
        "sparsity": population.sparsity,
        "dense_population": identity(dense),
        **{f"dense_{fact}": value for fact, value in dense.facts().items()},
        "status": "present",
        "models": len(population.members),
        "dense_models": len(dense.members),
        "origin": origin_of([*population.records, *dense.records]),
        "architecture": study.architecture_name,
        **population.facts(),
        "unpublished": "not known" if population.external else in_words(population.non_default_settings),
        "normalization": study.data.normalization_text,
        "population": identity(population, dense),
    }


def runs(population: Population) -> dict:
    """How the networks of a population came to be: commands, devices, versions, days, seeds.

    seconds: of their training together; that of the dense networks that they come from is not in it.
    """
    records = [
        record for member in population.members for record in member.records if (record or {}).get("run")
    ]
    each = [record["run"] for record in records]
    if parse_method(
        population.pruning_method
    ).finetuned:  # encoder and head at once: both say the seconds of both
        timed = [member.record["run"] for member in population.members if member.record in records]
    else:
        timed = each
    texts = {
        "commands": [run.get("command") for run in each],
        "devices": [f"{run.get('device')}, {run.get('threads')} threads" for run in each],
        "versions": [", ".join(map(" ".join, run.get("versions", {}).items())) for run in each],
        "days": sorted(str(run.get("written"))[:10] for run in each),
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
    """PIEs per class, and as flags ask Q-Scores and the UMAP; of the dense population alone its UMAP."""
    flags = study.flags
    made, name = made_from(study, population, dense), figure_name(study, population)
    shared = {"title": title(study, population, dense), "class_names": study.data.class_names}
    if population is not dense:
        shared["is_pie"] = arrays["is_pie"]
        counts = {name: arrays[name] for name in ("pies_per_class", "images")}
        draw_figure(study, f"pies_distribution/{name}", {**shared, **counts}, made)
    if population is not dense and flags.plot_q_score:
        sides = {"dense": "dense_", "pruned": ""}
        quality = {
            f"{side}_{part}": arrays[f"{prefix}{part}"] for side, prefix in sides.items() for part in PARTS
        }
        quality |= axis_names(population)
        draw_figure(study, f"q_score/{name}", {**shared, **quality}, made)
    if flags.plot_umap:
        ids = umap_ids(study, population)
        path = f"umap/{name}_{len(ids)}latents"
        made |= {"umap_models": ids, "umap_seed": UMAP_SEED, "code": evaluation.code()}
        stored = read_arrays(study.method_folder / f"{path}.npz", made)  # coordinates take long
        if stored is None:
            networks = [job.work() for job in evaluations(study, population)[: len(ids)]]
            stored = {
                "coordinates": umap_coordinates(np.mean([network["latent"] for network in networks], 0))
            }
        whose = f"latents of id {ids[0]}" if len(ids) == 1 else f"latents averaged over {len(ids)} networks"
        shared["title"] += f"\nUMAP of {whose}"
        shared |= {"coordinates": stored["coordinates"], "modal_labels": arrays["modal_labels"]}
        draw_figure(study, path, shared, made)


def check_umap_images(images: int) -> None:
    """Refuses too few test images for UMAP.

    Raises:
        UserError: so many are too few.
    """
    if images < UMAP_IMAGES:
        raise UserError(f"--plot_umap needs at least {UMAP_IMAGES} test images, not {images}; leave it out")


def umap_coordinates(latent: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, 2) by UMAP, seeded: the same latents give the same picture.

    Raises:
        UserError: too few images, latents between which distances are not finite, or an error of UMAP.
    """
    check_umap_images(len(latent))
    if not np.square(latent, dtype=np.float64).sum(1).max() < np.finfo(np.float32).max / 4:
        raise UserError("--plot_umap: distances between these latents are not finite; leave it out")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import umap

            model = umap.UMAP(n_neighbors=min(15, len(latent) - 1), random_state=UMAP_SEED, n_jobs=1)
            return model.fit_transform(latent).astype(np.float32)
    except Exception as error:  # numba, scikit-learn and pynndescent raise many kinds
        if "cannot cache" in str(error) and process.cache_compiled_code():
            return umap_coordinates(latent)
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"--plot_umap: UMAP failed ({reason}); leave it out") from None


def draw_depths(study: Study, dense: Population, population: Population, arrays: dict) -> None:
    """Dense against pruned depth by the definition of --depth_target, averaged over the networks."""
    target = study.flags.depth_target
    depths = {side: arrays[f"{side}_depth_{target}"] for side in ("dense", "pruned")}
    models = len(depths["dense"])
    facts = {
        "title": f"{title(study, population, dense)}\n"
        f"layer from which the k-NN agrees with the {DEFINITIONS[target]}; {models} networks",
        "places": arrays["places"],
        "is_pie": arrays["is_pie"],
        **{f"{side}_depth": depth.mean(0) for side, depth in depths.items()},
        **axis_names(population),
    }
    made = {**made_from(study, population, dense), "depth_models": models, "depth_target": target}
    draw_figure(study, f"prediction_depth/{figure_name(study, population)}_{target}", facts, made)


def draw_figure(study: Study, name: str, arrays: dict, made: dict) -> None:
    """Draws pies/NAME/METHOD/KIND/....png and stores its arrays beside it, unless --not_serialize_plots.

    Args:
        name: KIND/..., where KIND is the kind of figure.
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
    """The stem of the files of figures about a population."""
    return f"{study.architecture_name}_{kind_of(population)}sparsity_{len(population.members)}models"


def title(study: Study, population: Population, dense: Population) -> str:
    """Data set, learning method, pruning and sparsity; below them the number of networks and those settings
    that are most often changed, where they are not the published ones."""
    external = ", dense external" if dense.external else ""
    if population.external:
        external = ", external"
    head = study.architecture.projection_head
    network = f"{study.architecture}" + (f", {head} head" if head != "mlp" else "")
    lines = [
        f"{study.data.title} · {study.learning_method} · "
        f"{with_sparsity(population.pruning_method, population.sparsity)}",
        f"{len(population.members)} networks ({network}{external})",
    ]
    own, of_dense = (
        {key: value for key, value in each.non_default_settings.items() if key in TITLE_SETTINGS}
        for each in (population, dense)
    )
    if parse_method(population.pruning_method).finetuned and of_dense:
        settings = [f"dense: {in_words(of_dense)}", own and f"{state_of(population)}: {in_words(own)}"]
        lines.append("; ".join(filter(None, settings)))
    elif own:
        lines.append(in_words(own))
    return "\n".join(lines)


def state_of(population: Population) -> str:
    """What titles and axes call the networks that are compared with the dense ones."""
    return FINETUNED if population.pruning_method == FINETUNED else "pruned"


def axis_names(population: Population) -> dict[str, str]:
    """What a figure stores of `state_of`: nothing of pruned networks, which its axes mean without it."""
    return {"networks": FINETUNED} if state_of(population) == FINETUNED else {}


def in_words(settings: dict) -> str:
    """`epochs 5, batch_size 256`"""
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def show_table(study: Study, rows: list[dict]) -> None:
    """Shows rows of the table."""
    logger.info("%s\nall columns: %s", format_table(rows), table_path(study.results_folder))
