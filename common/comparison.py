"""What the clr_ and sup_ twins of the later stages share: loops over pruning methods and sparsities, figures and tables."""

import json
from typing import Iterator

import numpy as np

from common import metrics, process
from common.cli import UserError, logger
from common.methods import describe, parse_method
from common.pruning import layer_name
from common.store import results
from common.store.populations import Population, find_population, known_sparsities
from common.store.runs import Job, share
from common.study import Study
from figures.report.similarity import class_recalls

UMAP_SEED = 0
UMAP_IMAGES = 10
PARTS = ("q_score", "z_score", "l1_norm")
GALLERY = 48  # images of PIEs that are stored, those of the most confident disagreement
FACTS = 2  # of what figures store beside what they show: another number means that they are stored anew


def find_populations(study: Study) -> tuple[Population, list[tuple[str, float, Population | None]]]:
    """The dense population, and (pruning method, sparsity, population) of all that flags ask for, None where no model exists.

    All of them are found, and the table is read, before the first network is evaluated: what is wrong is said at once.
    """
    results.read_table(study.results_folder)
    dense = find_population(study, "dense", 0.0)
    return dense, list(_pruned_populations(study, dense))


def _pruned_populations(study: Study, dense: Population) -> Iterator[tuple[str, float, Population | None]]:
    for pruning_method in study.flags.pruning_methods:
        for sparsity in study.flags.pruning_percentages:
            population = find_population(study, pruning_method, sparsity, dense)
            if population is None:
                others = ", ".join(map(str, known_sparsities(study, pruning_method)))
                logger.info(
                    "absent: no %s models, %s, sparsity %s%s",
                    study.learning_method,
                    describe(pruning_method),
                    sparsity,
                    f"; there are {others}" if others else "",
                )
            yield pruning_method, sparsity, population


def detect_pies(study: Study) -> list[dict]:
    """PIEs, their classes, Q-Scores and UMAPs of every pruned population against the dense one; returns the table's rows, none in a worker."""
    flags, data = study.flags, study.data
    classes, labels = len(data.class_names), data.test_labels.cpu().numpy()
    dense, all_pruned = find_populations(study)
    populations = (dense, *(pruned for _, _, pruned in all_pruned if pruned))
    if not share(study, [job for population in populations for job in evaluations(study, population)]):
        return []
    dense_predictions, dense_quality = evaluate_population(study, dense)
    dense_labels, dense_ties = metrics.modal_labels(dense_predictions, classes)
    if flags.plot_umap:
        plot_umap(study, dense, dense, dense_labels, None)
    rows = [
        {
            **results.population_row(study, dense, "dense", 0.0, dense),
            **results.accuracy_columns(dense, dense_predictions, labels),
            "ties_dense": int(dense_ties.sum()),
            "zero_latents": dense_quality["zero_latents"],
            **{f"{part}_rest": mean_or_none(dense_quality[part]) for part in PARTS},
        }
    ]
    for pruning_method, sparsity, pruned in all_pruned:
        row = results.population_row(study, pruned, pruning_method, sparsity, dense)
        rows.append(row)
        if pruned is None:
            continue
        predictions, quality = evaluate_population(study, pruned)
        modal_labels, ties = metrics.modal_labels(predictions, classes)
        is_pie = metrics.find_pies(dense_predictions, predictions, classes)
        row |= {
            **results.accuracy_columns(pruned, predictions, labels),
            "pies": int(is_pie.sum()),
            "ties_dense": int(dense_ties.sum()),
            "ties_pruned": int(ties.sum()),
            "zero_latents": quality["zero_latents"],
        }
        for part in PARTS:
            row |= {
                f"{part}_{group}": mean_or_none(quality[part][chosen])
                for group, chosen in (("pies", is_pie), ("rest", ~is_pie))
            }
            row |= {
                f"dense_{part}_{group}": mean_or_none(dense_quality[part][chosen])
                for group, chosen in (("pies", is_pie), ("rest", ~is_pie))
            }
        made = made_from(study, pruned, dense)
        store_figure(
            study,
            "pies_distribution",
            stem(study, pruned),
            {**made, "facts": FACTS},
            {
                "title": title(study, pruned),
                "class_names": data.class_names,
                "images": len(labels),
                "is_pie": is_pie,
                "modal_labels": modal_labels,
                "dense_modal_labels": dense_labels,
                "tied": ties,
                "dense_tied": dense_ties,
                "pies_per_class": metrics.pies_per_class(is_pie, labels, classes),
                "labels": labels,
                **facts_for_comparisons(study, pruned, dense, row, predictions, dense_predictions),
                **gallery(study, is_pie, predictions, dense_predictions),
                "runs": json.dumps(runs(pruned)),
                "dense_runs": json.dumps(runs(dense)),
            },
        )
        if flags.plot_q_score:
            store_figure(
                study,
                "q_score",
                stem(study, pruned),
                made,
                {
                    "title": title(study, pruned),
                    "is_pie": is_pie,
                    **{f"dense_{part}": dense_quality[part] for part in PARTS},
                    **{f"pruned_{part}": quality[part] for part in PARTS},
                },
            )
        if flags.plot_umap:
            plot_umap(study, pruned, dense, modal_labels, is_pie)
    return rows


def facts_for_comparisons(
    study: Study,
    pruned: Population,
    dense: Population,
    row: dict,
    predictions: np.ndarray,
    dense_predictions: np.ndarray,
) -> dict:
    """What comparisons across learning and pruning methods (figures/report/across.py) need of a pruned population beside its PIEs."""
    facts = {key: row[key] for key in ("learning_method", "pruning_method", "sparsity", "population")}
    facts |= {"architecture": str(study.architecture), "data_title": study.data.title}
    classes, labels = len(study.data.class_names), study.data.test_labels.cpu().numpy()
    for prefix, population, predicted in (("", pruned, predictions), ("dense_", dense, dense_predictions)):
        facts |= {
            f"{prefix}ids": [member.id for member in population.members],
            f"{prefix}evaluations": [member.paths[0].stem for member in population.members],
            f"{prefix}recall": class_recalls(predicted, labels, classes),
            f"{prefix}accuracy": (predicted == labels).mean(1),
        }
    movements = [(member.record or {}).get("movement") for member in pruned.members]
    if all(movements):
        layers = sorted(set.intersection(*map(set, movements)), key=list(movements[0]).index)
        facts |= {
            "movement_layers": [layer_name(layer) for layer in layers],
            "movement": np.array([[movement[layer] for layer in layers] for movement in movements]),
        }
    return facts


def gallery(
    study: Study, is_pie: np.ndarray, predictions: np.ndarray, dense_predictions: np.ndarray
) -> dict[str, np.ndarray]:
    """The PIEs themselves, those of the most confident disagreement first: gallery (G,) their places among the test images, and
    gallery_images (G, 3, H, W) uint8."""
    confidence = metrics.disagreement(dense_predictions, predictions, len(study.data.class_names))[
        "confidence"
    ]
    places = np.flatnonzero(is_pie)
    places = places[np.argsort(-confidence[places], kind="stable")][:GALLERY]
    return {"gallery": places, "gallery_images": study.data.test_images[places].cpu().numpy()}


def runs(population: Population) -> dict:
    """How the networks of a population came to be, of those that say so: commands, devices, versions, days, seeds, and the seconds of
    their training together (that of the dense networks that they come from is not in it)."""
    found = [
        record for member in population.members for record in member.records if record and record.get("run")
    ]
    if parse_method(
        population.pruning_method
    ).finetuned:  # encoder and head at once: both say the seconds of both
        timed = [member.record for member in population.members if member.record and member.record.get("run")]
    else:
        timed = found
    each = {
        "commands": [record["run"].get("command") for record in found],
        "devices": [
            f"{record['run'].get('device')}, {record['run'].get('threads')} threads" for record in found
        ],
        "versions": [
            ", ".join(f"{name} {version}" for name, version in record["run"].get("versions", {}).items())
            for record in found
        ],
        "days": sorted(str(record["run"].get("written"))[:10] for record in found),
    }
    return {
        **{name: list(dict.fromkeys(values)) for name, values in each.items()},
        "seeds": sorted({record["seed"] for record in found if "seed" in record}),
        "seconds": sum(record["run"].get("seconds", 0) for record in timed),
        "networks": len(population.members),
        "made_elsewhere": sum(member.made_elsewhere for member in population.members),
        "analysis": process.command_line(),
    }


def compare_depths(study: Study) -> list[dict]:
    """Prediction depth of every pruned population against the dense one, PIEs apart; returns the table's rows, none in a worker."""
    dense, all_pruned = find_populations(study)
    populations = (dense, *(pruned for _, _, pruned in all_pruned if pruned))
    if not share(
        study,
        [
            job
            for population in populations
            for job in evaluations(study, population) + probes(study, population, dense)
        ],
    ):
        return []
    dense_predictions, _ = evaluate_population(study, dense)
    dense_depths, places = population_depths(study, dense, first_ids(study, dense))
    report_never_agreeing(dense, dense_depths, places)
    chosen_depth = study.flags.depth_target
    rows = [
        {
            **results.population_row(study, dense, "dense", 0.0, dense),
            "depth_models": len(dense_depths["prediction"]),
            "depth_rest": dense_depths["prediction"].mean(),
            "label_depth_rest": dense_depths["label"].mean(),
            "never_agreeing": int((dense_depths["prediction"] == places).sum()),
        }
    ]
    for pruning_method, sparsity, pruned in all_pruned:
        row = results.population_row(study, pruned, pruning_method, sparsity, dense)
        rows.append(row)
        if pruned is None:
            continue
        predictions, _ = evaluate_population(study, pruned)
        is_pie = metrics.find_pies(dense_predictions, predictions, len(study.data.class_names))
        ids = first_ids(study, pruned, dense)
        depths, _ = population_depths(study, pruned, ids)
        same_dense_depths, _ = population_depths(study, dense, ids)
        report_never_agreeing(pruned, depths, places)
        row |= {
            "pies": int(is_pie.sum()),
            "depth_models": len(depths["prediction"]),
            "never_agreeing": int((depths["prediction"] == places).sum()),
        }
        for target, prefix in (("prediction", "depth"), ("label", "label_depth")):
            for group, chosen in (("pies", is_pie), ("rest", ~is_pie)):
                row[f"{prefix}_{group}"] = mean_or_none(depths[target].mean(0)[chosen])
                row[f"dense_{prefix}_{group}"] = mean_or_none(same_dense_depths[target].mean(0)[chosen])
        definition = {"prediction": "own final prediction", "label": "true label, as published"}[chosen_depth]
        store_figure(
            study,
            "prediction_depth",
            f"{stem(study, pruned)}_{chosen_depth}",
            {
                **made_from(study, pruned, dense),
                "depth_models": len(depths["label"]),
                "depth_target": chosen_depth,
                "facts": FACTS,
            },
            {
                "title": f"{title(study, pruned)}\nk-NN against the {definition}, {len(depths['label'])} of the models",
                "places": places,
                "ids": ids,
                "runs": json.dumps({"analysis": process.command_line()}),
                "is_pie": is_pie,
                "dense_depth": same_dense_depths[chosen_depth].mean(0),
                "pruned_depth": depths[chosen_depth].mean(0),
                **{f"dense_depth_{target}": values for target, values in same_dense_depths.items()},
                **{f"pruned_depth_{target}": values for target, values in depths.items()},
            },
        )
    return rows


def evaluate_population(study: Study, population: Population) -> tuple[np.ndarray, dict]:
    """Predictions (K, N), and the Q-Score parts averaged over the K models, (N,) each, with the number of latents of zeros.

    A latent of zeros has no Q-Score: it is left out of its image's average, and counted.
    """
    latent_ids = umap_ids(study, population)
    evaluations = [results.evaluate(study, member, member.id in latent_ids) for member in population.members]
    zero_latents = int(sum(evaluation["zero_latents"] for evaluation in evaluations))
    if zero_latents:
        logger.info("%d latents of zeros among %s: left out of the Q-Scores", zero_latents, population)
    quality = {
        part: metrics.mean_over_defined(np.stack([evaluation[part] for evaluation in evaluations]))
        for part in PARTS
    }
    return np.stack([evaluation["predictions"] for evaluation in evaluations]), {
        **quality,
        "zero_latents": zero_latents,
    }


def evaluations(study: Study, population: Population) -> list[Job]:
    """The evaluation of each network, to be shared."""
    latent_ids = umap_ids(study, population)
    return [
        (
            results.evaluation_path(study, member),
            lambda member=member: results.evaluate(study, member, member.id in latent_ids),
        )
        for member in population.members
    ]


def probes(study: Study, population: Population, dense: Population) -> list[Job]:
    """The probing of the networks that prediction depth is averaged over, to be shared."""
    ids = first_ids(study, population, dense)
    return [
        (results.probe_path(study, member), lambda member=member: results.probe(study, member))
        for member in population.members
        if member.id in ids
    ]


def umap_ids(study: Study, population: Population) -> list[int]:
    """The ids whose latents the UMAP averages: the first --umap_models of the population, none without --plot_umap."""
    wanted = (
        study.flags.umap_models if getattr(study.flags, "umap_models", None) and study.flags.plot_umap else 0
    )
    return [member.id for member in population.members][:wanted]


def first_ids(study: Study, *populations: Population) -> list[int]:
    """The first --prediction_depth_models ids that all the populations have.

    Raises:
        UserError: there is none (with --allow_missing only).
    """
    ids = sorted(
        set.intersection(*({member.id for member in population.members} for population in populations))
    )
    if not ids:
        raise UserError(
            f"no id is in all of: {'; '.join(map(str, populations))}; train the missing ones instead of --allow_missing"
        )
    return ids[: study.flags.prediction_depth_models]


def population_depths(
    study: Study, population: Population, ids: list[int]
) -> tuple[dict[str, np.ndarray], int]:
    """Both definitions, target -> (models, N), of the networks with these ids, and the number of places."""
    labels = study.data.test_labels.cpu().numpy()
    probes = [results.probe(study, member) for member in population.members if member.id in ids]
    return {
        "prediction": np.stack(
            [metrics.prediction_depth(probe["knn"], probe["predictions"]) for probe in probes]
        ),
        "label": np.stack([metrics.label_prediction_depth(probe["knn"], labels) for probe in probes]),
    }, len(probes[0]["knn"])


def report_never_agreeing(population: Population, depths: dict[str, np.ndarray], places: int) -> None:
    """Says how often the k-NN of the last place disagrees with the network, so that a depth is the number of places."""
    depth = depths["prediction"]
    logger.info(
        "%s %s: on %d of %d images x networks even the last place's k-NN disagrees (depth %d)",
        population.pruning_method,
        population.sparsity,
        (depth == places).sum(),
        depth.size,
        places,
    )


def plot_umap(
    study: Study,
    population: Population,
    dense: Population,
    modal_labels: np.ndarray,
    is_pie: np.ndarray | None,
) -> None:
    """The UMAP of the latents averaged over --umap_models networks; coordinates are computed once and stored."""
    ids = umap_ids(study, population)
    made = {**made_from(study, population, dense), "umap_models": ids, "umap_seed": UMAP_SEED}
    name = f"{stem(study, population)}_{len(ids)}latents"
    stored = results.read_arrays(study.method_folder / "umap" / f"{name}.npz", made)
    if stored is None:
        latents = [
            results.evaluate(study, member, True)["latent"]
            for member in population.members
            if member.id in ids
        ]
        coordinates = umap_coordinates(np.mean(latents, 0))
    else:
        coordinates = stored["coordinates"]
    whose = f"latents of id {ids[0]}" if len(ids) == 1 else f"latents averaged over {len(ids)} models"
    store_figure(
        study,
        "umap",
        name,
        made,
        {
            "title": f"{title(study, population)}\nUMAP of {whose}",
            "coordinates": coordinates,
            "modal_labels": modal_labels,
            "class_names": study.data.class_names,
            **({} if is_pie is None else {"is_pie": is_pie}),
        },
    )


def umap_coordinates(latent: np.ndarray) -> np.ndarray:
    """(N, D) -> (N, 2) by UMAP, seeded: the same latents give the same picture.

    Raises:
        UserError: too few images for UMAP.
    """
    import warnings

    if len(latent) < UMAP_IMAGES:
        raise UserError(f"--plot_umap needs at least {UMAP_IMAGES} test images, not {len(latent)}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import umap

        neighbours = min(15, len(latent) - 1)
        return (
            umap.UMAP(n_neighbors=neighbours, random_state=UMAP_SEED, n_jobs=1)
            .fit_transform(latent)
            .astype(np.float32)
        )


def store_figure(study: Study, kind: str, name: str, made: dict, arrays: dict) -> None:
    """Stores a figure's arrays in pies/NAME/METHOD/KIND/NAME.npz (unless --not_serialize_plots) and draws them beside it.

    What is there already and made from the same is left alone.
    """
    path = study.method_folder / kind / f"{name}.npz"
    picture = path.with_suffix(".png")
    serialize = not getattr(study.flags, "not_serialize_plots", False)
    if not (picture.exists() and results.read_arrays(path, made) is not None):
        from common import plots

        arrays = {"figure": kind, **{key: np.asarray(value) for key, value in arrays.items()}}
        path.unlink(missing_ok=True)  # of other networks
        if serialize:
            results.write_arrays(path, arrays, made)
        plots.save_figure(picture, plots.draw(arrays))
    logger.info("figure: %s", picture)


def made_from(study: Study, population: Population, dense: Population) -> dict:
    """What results of a pruned population against a dense one depend on."""
    return {
        "checkpoints": population.checksums,
        "dense_checkpoints": dense.checksums,
        "data": study.data.checksum,
    }


def stem(study: Study, population: Population) -> str:
    """The file stem of figures about a population."""
    return f"{study.architecture_name}_{population.pruning_method}_{population.sparsity}sparsity_{len(population.members)}models"


def title(study: Study, population: Population) -> str:
    """Data set, learning method, pruning, sparsity and number of models."""
    sparsity = "" if population.pruning_method == "dense" else f", sparsity {100 * population.sparsity:g} %"
    elsewhere = ", made elsewhere" if population.made_elsewhere else ""
    network = (
        f"{study.architecture}, {study.architecture.projection_head} head"
        if study.architecture.projection_head != "mlp"
        else study.architecture
    )
    return (
        f"{study.data.title} · {study.learning_method} · {describe(population.pruning_method)}{sparsity} · "
        f"{len(population.members)} models ({network}{elsewhere})"
    )


def mean_or_none(values: np.ndarray) -> float | None:
    """The mean of the values that are defined, None where there are none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def report(study: Study, rows: list[dict]) -> None:
    """Writes the rows into the data set's table and prints them; a worker has none."""
    if not rows:
        return
    rows = results.update_table(study.results_folder, rows)
    logger.info("%s\nall columns: %s", results.format_table(rows), results.table_path(study.results_folder))
