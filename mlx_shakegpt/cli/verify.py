"""`verify`: measures how well a text is known and certifies it; or runs a certificate again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from ..settings.config import VerifyConfig
from ..settings.errors import NotReached
from .common import (
    FilePath,
    Grouped,
    emit,
    json_option,
    note,
    options,
    prepare,
    refuse_others,
    text_options,
    trained_model_from,
)
from .long import Parts, awake

GROUPS = {
    "Model and text": ("run", "model", "data", "first_line", "corpus_tokens"),
    "Certificate": ("require", "samples", "all_up_to", "target", "compare"),
    "To check a certificate": ("certificate", "seed"),
}


@click.command("verify", cls=Grouped, groups=GROUPS)
@click.option("--run", help="Run to verify. Default: the one trained last.")
@click.option("--model", type=FilePath(), help="Folder or hub id to verify instead of a run.")
@text_options
@options(VerifyConfig, "require", "samples", "all_up_to")
@click.option(
    "--to", "target", type=FilePath(),
    help="Folder for certificate and map. Default: the model's, or other-texts/ inside it.",
)  # fmt: skip
@click.option(
    "--certificate",
    type=FilePath(),
    help="Measure again what this certificate states; write nothing.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="With --certificate: test its rates on a fresh sample of --samples offsets instead.",
)
@click.option("--compare", type=FilePath(), help="Show what differs from this certificate.")
@json_option
def command(
    run: str | None, model: str | None, data: str | None, first_line: int | None,
    corpus_tokens: int | None, target: str | None, certificate: str | None, seed: int | None,
    compare: str | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Measures how well a text is known by heart, with controls that must fail.

    Writes a certificate and a map of the text; exits 1 if nothing is proven.
    """
    if certificate:
        fresh = ("samples", "seed") if seed is not None else ()
        refuse_others(
            ("run", "model", "data", "certificate", "as_json", *fresh),
            "--certificate brings its own settings; leave {option} out",
        )
        sample = None if seed is None else (seed, settings["samples"])
        _rerun(Path(certificate), run, model, data, as_json, sample)
        return
    if seed is not None:
        raise click.UsageError(
            "--seed is for --certificate; a new certificate's sample comes from the hashes of text "
            "and weights"
        )
    prepare()
    from ..run import of_each_text
    from ..verification import certificates

    config = VerifyConfig(**settings)
    texts = []
    if not model and data is None and first_line is None and corpus_tokens is None:
        texts = of_each_text(run)
    if len(texts) > 1:
        _verify_each(texts, target, compare, config, as_json)
        return
    trained = texts[0] if texts else trained_model_from(run, model, data, first_line, corpus_tokens)
    # What came from the hub lies in its cache, where nobody looks.
    local = not model or Path(model).expanduser().is_dir()
    own = trained.folder if local else Path(trained.name)
    before = certificates.read(Path(compare)) if compare else None
    result, text = _verified(trained, own, target, config, before, compare)
    emit(as_json, result, text)
    if not result["certified"]:
        raise NotReached(f"not certified: {'; '.join(result['reasons'])}")


def _verified(
    trained: Any, own: Path, target: str | None, config: VerifyConfig,
    before: dict[str, Any] | None, compared: str | Path | None,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    """The figures of a model with one text, whose certificate and map are written, and the same for
    people; beside the certificate `before`, of the file `compared`, where there is one."""
    from ..verification.proof import CERTIFICATE, MAP, evidence_folder, prove
    from ..verification.summary import changes, summary

    folder = _writable(Path(target) if target else evidence_folder(trained, own))
    _announce(trained)
    with awake():
        proof = prove(trained, config, Parts())
    proof.write(folder)
    figures = proof.figures
    result = figures | {"certificate": str(folder / CERTIFICATE), "map": str(folder / MAP)}
    text = summary(figures)
    if before:
        result["changes"] = changes(before, figures)
        text += f"\n\nBeside {compared}:\n" + "\n".join(result["changes"])
    note(f"Certificate and map are in {folder}.")
    return result, text


def _verify_each(
    texts: list[Any], target: str | None, compare: str | None, config: VerifyConfig, as_json: bool
) -> None:
    """Certifies a model that learned several texts for each of them; one that it had learned before
    is shown beside its certificate of that time."""
    from ..run import certificates_before
    from ..verification import certificates
    from ..verification.figures import too_short

    if compare:
        raise click.UsageError("--compare is for one text; choose it with --data")
    files = certificates_before(texts[0].folder)
    results: dict[str, dict[str, Any]] = {}
    parts = []
    for trained in texts:
        name, corpus = trained.corpus.name, trained.corpus
        if reason := too_short(corpus.ids):
            results[name] = {"certified": False, "reasons": [reason]}
            parts.append(f"{name}\n\nnot measured: {reason}")
            continue
        folder = str(Path(target) / name) if target else None
        file, old = files.get(corpus.sha256), None
        try:
            old = certificates.read(file) if file else None
        except (ValueError, OSError) as error:
            note(f"Not compared with the certificate before: {error}")
        result, text = _verified(trained, trained.folder, folder, config, old, file)
        results[name] = result
        parts.append(f"{name}\n\n{text}")
    missed = [name for name, result in results.items() if not result["certified"]]
    emit(as_json, {"texts": results, "certified": not missed}, "\n\n".join(parts))
    if missed:
        reasons = "; ".join(f"{name}: {'; '.join(results[name]['reasons'])}" for name in missed)
        raise NotReached(f"not certified: {reasons}")


def _rerun(
    file: Path, run: str | None, model: str | None, data: str | None, as_json: bool,
    sample: tuple[int, int] | None,
) -> None:  # fmt: skip
    """Measures again what a certificate states, if model and text are those it speaks of; or, with
    a seed and a number of offsets, tests its rates on a fresh sample."""
    prepare()
    from ..run import text_with
    from ..verification import certificates
    from ..verification.proof import measure_again, sample_again
    from ..verification.summary import comparison_text

    stated = certificates.read(file)
    passage = certificates.passage_of(stated)
    run = run or (None if model else stated["name"])
    if not model and data is None:
        data = text_with(run, stated["text"]["sha256"])
    trained = trained_model_from(run, model, data, passage.first_line, passage.tokens)
    _announce(trained)
    fresh: list[Any] = []
    with awake():
        if sample:
            result, fresh = sample_again(stated, trained, *sample, Parts())
        else:
            result = measure_again(stated, trained, Parts())
    rates = {f"em@{e['k']},{e['m']}": e["rate"] for e in stated["extraction"]}
    require = stated["settings"]["require"]
    again = "agrees with a fresh sample" if sample else "was measured again"
    held = "" if result.differences else (
        f"{file} holds: {trained.name} {again}. It states "
        f"{' and '.join(f'{name} {rate:.4f}' for name, rate in rates.items())}, and "
        f"{'certifies' if stated['certified'] else 'does not certify'} a rate of {require:g}.\n"
    )  # fmt: skip
    emit(
        as_json,
        {
            "holds": not result.differences,
            "certified": stated["certified"],
            "require": require,
            "stated_rates": rates,
            "differences": result.differences,
            "compared": result.compared,
            "not_compared": result.not_compared,
            "fresh": [rate.to_json() for rate in fresh],
        },
        "\n".join([*map(str, fresh), held + comparison_text(result)]),
    )
    if result.differences:
        raise NotReached(f"{file} does not hold: {'; '.join(result.differences)}")
    if not stated["certified"]:
        raise NotReached(f"{file} holds, but it certifies nothing")


def _writable(folder: Path) -> Path:
    """A folder, made if it is missing, so that a long measurement is not lost at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} cannot be written; choose another folder with --to")
    return folder


def _announce(trained: Any) -> None:
    corpus = trained.corpus
    note(f"Verifying {trained.name} on {len(corpus.ids):,} tokens of {corpus.name} …")
