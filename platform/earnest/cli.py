"""The `earnest` command: thin wrappers that read arguments, call one room each and print.

A user's mistake is one clear line on stderr and exit code 2; work that failed is exit code 1, and tracking that failed
where it was required or asked for is exit code 3.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from earnest import quick_imports
from earnest.ending import ended_by_signals, interrupted
from earnest.specs import UserError, draws, method_names, read_alpha, read_method, read_task

app = typer.Typer(
    name="earnest",
    help="What compression really cost a language model, measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
UNTRACKED = 3
PLAIN_WIDTH = 160  # of a log or a pipe, which have none of their own
out = Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PLAIN_WIDTH)
err = Console(stderr=True)

StoreOption = Annotated[str | None, typer.Option(help="Where step outputs are kept: a folder or a bucket's URL.")]
UriOption = Annotated[str | None, typer.Option(help="MLflow's tracking URI; the store's own database by default.")]
ExpertOption = Annotated[str | None, typer.Option(help="A small tuned model, to steer with.")]
AntiexpertOption = Annotated[str | None, typer.Option(help="Its untuned twin; the base itself without one.")]
AlphaOption = Annotated[str, typer.Option(help="How strongly the pair steers: a number, or adaptive.")]
DtypeOption = Annotated[
    str,
    typer.Option(
        help="To compute in: float32, bfloat16, float16, stored (that of the files), or auto: float32 on a CPU without "
        "fast bfloat16, else stored."
    ),
]
DeviceOption = Annotated[str, typer.Option(help="A torch device, such as cpu or cuda:0.")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write the result as JSON to this file.")]


@app.command()
def plan(
    config: Annotated[Path, typer.Argument(help="A sweep's TOML file.")],
    store: StoreOption = None,
) -> None:
    """Show what a sweep would run, deduplicated, and what is already done.

    Example: earnest plan jobs/configs/demo.toml
    """
    from earnest.cluster.events import title_of
    from earnest.sweep import prepare

    prepared = prepare(config, store=store, writable=False)
    _tell_damaged(prepared.damaged)
    done = prepared.done
    titles = {digest: title_of(step, prepared.plan) for digest, step in prepared.plan.steps.items()}
    width = max(map(len, titles.values()))
    rows = (f"{name[:10]}  {title:<{width}}  {'done' if name in done else 'to run'}" for name, title in titles.items())
    # A table of rich would measure and wrap every cell, which takes seconds for thousands of steps.
    out.print(
        "\n".join([f"{'step':<10}  {'what':<{width}}  state", *rows]), markup=False, highlight=False, soft_wrap=True
    )
    cells, steps = len(prepared.plan.cells), len(prepared.plan.steps)
    dtypes = " or ".join(dict.fromkeys(step.spec["dtype"] for step in prepared.plan.steps.values()))
    counted = f"{cells} cells, {steps} steps: {len(done)} done, {steps - len(done)} to run"
    out.print(f"{counted}, computed in {dtypes}", highlight=False)


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="A sweep's TOML file.")],
    address: Annotated[str | None, typer.Option(help="A Ray cluster's address; a local one by default.")] = None,
    store: StoreOption = None,
    tracking_uri: UriOption = None,
) -> None:
    """Run a sweep: compress, evaluate, track and report every cell. Finished steps are not run again.

    Example: earnest sweep jobs/configs/demo.toml
    """
    from earnest.sweep import prepare, run_sweep

    prepared = prepare(config, store=store, tracking_uri=tracking_uri, address=address)
    _tell_damaged(prepared.damaged)
    try:
        result = run_sweep(prepared, address=address, console=out)
    except KeyboardInterrupt:
        err.print("interrupted; finished steps are kept, run the same command again to go on")
        raise typer.Exit(128 + (interrupted() or signal.SIGINT)) from None
    if not result.ok:
        raise typer.Exit(1)
    if prepared.sweep.tracking.required and not result.tracked:
        raise typer.Exit(UNTRACKED)


@app.command()
def track(
    config: Annotated[Path, typer.Argument(help="A sweep's TOML file.")],
    store: StoreOption = None,
    tracking_uri: UriOption = None,
) -> None:
    """Send a sweep's finished cells from the store to MLflow, and all that waits to be sent. Exits 3 where that fails.

    Example: earnest track jobs/configs/demo.toml
    """
    from earnest.sweep import prepare, track_sweep

    prepared = prepare(config, store=store, tracking_uri=tracking_uri)
    if not prepared.done:
        raise UserError(f"track {config}: no step is in {prepared.store.root} yet; run earnest sweep {config} first")
    if not track_sweep(prepared, console=out):
        raise typer.Exit(UNTRACKED)


@app.command()
def compress(
    model: Annotated[str, typer.Argument(help="A model folder, a hub id, or nano:large.")],
    method: Annotated[str, typer.Option(help=f"{method_names()}.")],
    folder: Annotated[Path, typer.Option("--out", help="The checkpoint's folder; must not exist yet.")],
    sparsity: Annotated[float | None, typer.Option(help="Share of weights to zero, in (0, 1).")] = None,
    pattern: Annotated[str | None, typer.Option(help="N:M, as in 2:4: keep N of every M weights.")] = None,
    bits: Annotated[int | None, typer.Option(help="2 to 8.")] = None,
    group_size: Annotated[int | None, typer.Option(help="Inputs per scale; -1 for one per row.")] = None,
    symmetric: Annotated[
        bool | None, typer.Option("--symmetric/--asymmetric", help="Zero point fixed, or free.")
    ] = None,
    act_order: Annotated[bool | None, typer.Option("--act-order", help="Visit columns by activation.")] = None,
    static_groups: Annotated[
        bool | None, typer.Option("--static-groups", help="Scales from the dense weights.")
    ] = None,
    true_sequential: Annotated[bool | None, typer.Option("--true-sequential", help="Sub-layers one by one.")] = None,
    damping: Annotated[float | None, typer.Option(help="Share of the Hessian's mean diagonal.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="A text or Parquet file, a hub id, or nano, the default for nano: models alone.")
    ] = None,
    column: Annotated[str, typer.Option(help="The calibration data's column.")] = "text",
    split: Annotated[str, typer.Option(help="The calibration data's split.")] = "train",
    samples: Annotated[int, typer.Option(help="Calibration sequences.")] = 128,
    length: Annotated[int | None, typer.Option(help="Tokens per sequence; 2048, or what the model takes.")] = None,
    seed: Annotated[int, typer.Option(help="Of calibration windows, and of what a method draws.")] = 0,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "cpu",
) -> None:
    """Compress a model into a checkpoint that is proved to reload bit for bit.

    Example: earnest compress nano:large --method wanda --sparsity 0.5 --out wanda-50
    """
    fields: dict[str, Any] = {
        "method": method, "sparsity": sparsity, "pattern": pattern, "bits": bits, "group_size": group_size,
        "symmetric": symmetric, "act_order": act_order, "static_groups": static_groups,
        "true_sequential": true_sequential, "damping": damping, "seed": seed if draws(method) else None,
    }  # fmt: skip
    spec = read_method({key: value for key, value in fields.items() if value is not None})
    from earnest.oneoff import compress_once

    manifest = compress_once(
        model, spec, folder, data=calibration, column=column, split=split, samples=samples, length=length, seed=seed,
        dtype=dtype, device=device, on_block=_progress("block"),
    )  # fmt: skip
    from earnest.report.scores import size_line, touched_line

    out.print(f"{escape(str(folder))}: {size_line(manifest)}, reloads bit for bit", highlight=False)
    out.print(touched_line(manifest), highlight=False)


@app.command()
def evaluate(
    subject: Annotated[str, typer.Argument(help="A model, or a checkpoint that earnest compress made.")],
    task: Annotated[str, typer.Option(help="perplexity, closed_book, multiple_choice, mmlu, lm_eval:NAME, …")],
    samples: Annotated[Path | None, typer.Option("--out", help="Write every sample to this Parquet file.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="A file, a folder of splits, a hub id, or nano, the default for nano: models alone."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="The data's split.")] = None,
    shots: Annotated[int | None, typer.Option(help="Demonstrations before each question.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many samples.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="A column that the data calls otherwise, question=Question; may be repeated."),
    ] = None,
    more: Annotated[
        list[str] | None, typer.Option("--set", help="Another of the task's settings, style=lm_eval; may be repeated.")
    ] = None,
    json_file: JsonOption = None,
    expert: ExpertOption = None,
    antiexpert: AntiexpertOption = None,
    alpha: AlphaOption = "1",
    dense: Annotated[str | None, typer.Option(help="The model it was compressed from, to compare with.")] = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "cpu",
) -> None:
    """Evaluate a model or checkpoint on one task; every score comes with n, standard error and a 95 % interval.

    With --expert the subject is the ensemble: base + alpha · (expert − anti-expert), in every task. With --dense
    perplexity comes with KL to that model, and written answers with their perplexity for it.

    Example: earnest evaluate nano:large --task closed_book --limit 300
    """
    names = _settings(column or (), "--column", "question=Question") or None
    fields = {"task": task, "data": data, "split": split, "shots": shots, "limit": limit, "columns": names}
    settings = _settings(more or (), "--set", "style=lm_eval")
    spec = read_task({**{key: value for key, value in fields.items() if value is not None}, **settings})
    from earnest.oneoff import evaluate_once, manifest_of

    for file in (samples, json_file):
        _refuse_unwritable(file)
    result = evaluate_once(
        subject, spec, expert=expert, antiexpert=antiexpert, alpha=read_alpha(alpha), dense=dense, dtype=dtype,
        device=device, on_step=_progress("batch"),
    )  # fmt: skip
    if samples is not None:
        from earnest.samples import write_samples

        write_samples(result.samples, result.scores, samples)
    if json_file is not None:
        json_file.write_text(json.dumps(result.scores.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")
    from earnest.report.scores import score_lines, size_line

    for line in score_lines(result.scores):
        out.print(line, highlight=False)
    if (manifest := manifest_of(subject)) is not None:
        out.print(f"{escape(subject)}: {size_line(manifest)}", highlight=False)


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(help="Samples of evaluate --out, a folder of them, or with --sweep a cell or all.")
    ],
    b: Annotated[str, typer.Argument(help="What A stands against: the same, or dense.")],
    sweep: Annotated[Path | None, typer.Option(help="A sweep's TOML file; A and B are then its cells.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; may be repeated.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="A column of the samples, such as domain, to draw together.")
    ] = None,
    store: StoreOption = None,
    json_file: JsonOption = None,
) -> None:
    """Compare two subjects on the same samples: what matches, what falls or rises, and what is not decided.

    Example: earnest compare "magnitude 50%" dense --sweep jobs/configs/demo.toml
    """
    from earnest.compare.run import compare_cells, compare_paths
    from earnest.compare.table import print_versus, write_versus

    _refuse_unwritable(json_file)
    if sweep is None:
        rows, skipped = compare_paths(Path(a), Path(b), task or (), cluster)
    else:
        from earnest.sweep import prepare

        prepared = prepare(sweep, store=store, writable=False)
        _tell_damaged(prepared.damaged)
        rows, skipped = compare_cells(prepared.plan, prepared.store, a, b, task or (), cluster)
    print_versus(rows, a, b, out, skipped=skipped)
    if json_file is not None:
        write_versus(rows, json_file)


@app.command()
def verify(
    what: Annotated[
        str, typer.Argument(help="A compressed checkpoint's folder, or a store: a folder or bucket's URL.")
    ],
) -> None:
    """Check every byte of a checkpoint against its manifest, or of a store against what was published.

    Example: earnest verify wanda-50
    """
    checkpoint = Path(what)
    if "://" in what or any((checkpoint / kind).is_dir() for kind in ("compress", "evaluate")):
        _verify_store(what)
        return
    from earnest.compression.checkpoint import verify as check

    manifest = check(checkpoint)
    out.print(
        f"{escape(str(checkpoint))}: {len(manifest.files)} files and {len(manifest.tensors)} tensors are as published"
    )
    for note in manifest.notes:
        err.print(f"[yellow]note:[/] {escape(note)}", highlight=False, soft_wrap=True)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A compressed checkpoint's folder.")],
    folder: Annotated[Path, typer.Option("--out", help="The folder to write; must not exist yet.")],
    form: Annotated[str, typer.Option("--format", help="dense: a plain transformers folder.")] = "dense",
) -> None:
    """Write a checkpoint in a form that other programs load.

    Example: earnest export wanda-50 --format dense --out wanda-50-dense
    """
    from earnest.compression.checkpoint import export_dense

    if form != "dense":
        raise UserError(f"format {form!r}: earnest writes dense")
    export_dense(checkpoint, folder)
    out.print(f"{escape(str(folder))}: a transformers folder with equal logits")


@app.command()
def report(
    config: Annotated[Path, typer.Argument(help="A sweep's TOML file.")],
    file: Annotated[Path | None, typer.Option("--out", help="Copy the page here.")] = None,
    store: StoreOption = None,
) -> None:
    """Write a sweep's report again from what the store holds, and print its table.

    Example: earnest report jobs/configs/demo.toml --out report.html
    """
    from earnest.cells import collect
    from earnest.report.table import print_table
    from earnest.sweep import prepare, write_page

    _refuse_unwritable(file)
    prepared = prepare(config, store=store, writable=False)
    _tell_damaged(prepared.damaged)
    if not prepared.done:
        raise UserError(f"report {config}: no step is in {prepared.store.root} yet; run earnest sweep {config} first")
    cells = collect(prepared.plan, prepared.store, prepared.store.failures())
    page = write_page(prepared, cells)
    print_table(cells, out)
    if file is not None:
        file.write_bytes(page.read_bytes())
    out.print(f"Report   {escape(str(file or page))}", highlight=False, soft_wrap=True)


@app.command()
def dashboard(
    experiment: Annotated[str, typer.Argument(help="The sweep's name.")] = "demo",
    store: Annotated[str, typer.Option(help="The sweep's store.")] = "store",
    tracking_uri: UriOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="On 127.0.0.1.")] = 5000,
) -> None:
    """Open MLflow on the sweep's saved charts. Ends with Ctrl-C.

    Example: earnest dashboard demo --store store
    """
    from earnest.tracking.dashboard import serve_dashboard

    serve_dashboard(
        experiment, store_root=store, uri=tracking_uri, port=port, tell=lambda text: out.print(text, highlight=False)
    )


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    base: Annotated[str, typer.Option(help="The model to steer, or just to ask; URL#MODEL is one behind an API.")] = (
        "nano:large"
    ),
    expert: ExpertOption = None,
    antiexpert: AntiexpertOption = None,
    alpha: AlphaOption = "1",
    max_tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 64,
    stop: Annotated[list[str] | None, typer.Option(help="End at this text; may be repeated.")] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Of an API: how many likeliest tokens to ask for.")] = 20,
    key_env: Annotated[str | None, typer.Option(help="Of an API: the environment variable with its key.")] = None,
    dtype: DtypeOption = "auto",
    device: DeviceOption = "cpu",
) -> None:
    r"""Continue a prompt greedily: base alone, or base + alpha · (expert − anti-expert).

    Example: earnest generate --base nano:large --expert nano:small-tuned --antiexpert nano:small "Q: …"

    The base may be any model behind an OpenAI-compatible API that tells the likeliest tokens of its completions:

    --base http://127.0.0.1:8000/v1#MODEL --top-k 20
    """
    from earnest.oneoff import generate_from_black_box, generate_once

    asked: dict[str, Any] = {
        "base": base, "expert": expert, "antiexpert": antiexpert, "alpha": read_alpha(alpha), "max_tokens": max_tokens,
        "stop": tuple(one.replace("\\n", "\n") for one in stop or ()), "dtype": dtype,
        "device": device,
    }  # fmt: skip
    prompt = prompt.replace("\\n", "\n")
    if "://" in base:
        text, tally = generate_from_black_box(prompt, top_k=top_k, key_env=key_env, **asked)
        kept = f"{tally.mean_missing:.1%} of the probability on average, {tally.most_missing:.1%} at most"
        err.print(f"{tally.requests} requests; the API kept back {kept}", highlight=False)
    else:
        text = generate_once(prompt, **asked)
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def _verify_store(root: str) -> None:
    from earnest.store import Store

    store, count, damaged = Store(root, writable=False), 0, 0
    for kind in ("compress", "evaluate"):
        there, wrong = store.verify(kind)
        count, damaged = count + there, damaged + len(wrong)
        for digest, why in wrong.items():
            err.print(f"[red]damaged:[/] {kind}/{digest}: {escape(why)}", highlight=False, soft_wrap=True)
    out.print(f"{escape(root)}: {count - damaged} of {count} outputs are as published", highlight=False, soft_wrap=True)
    if damaged:
        raise typer.Exit(1)


def _tell_damaged(damaged: Mapping[str, str]) -> None:
    """One line for each step whose stored output is not whole."""
    for title, wrong in damaged.items():
        err.print(
            f"[yellow]damaged:[/] {escape(title)}: {escape(wrong)}; it counts as not run, earnest sweep makes it again",
            highlight=False,
            soft_wrap=True,
        )


def _settings(pairs: Sequence[str], option: str, example: str) -> dict[str, str]:
    """Settings written as NAME=VALUE."""
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise UserError(f"{option} {wrong[0]}: write it as NAME=VALUE, such as {example}")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _refuse_unwritable(file: Path | None) -> None:
    """Refuse a file that could not be written, before the work and not after it."""
    if file is None:
        return
    if file.is_dir() or not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise UserError(f"{file}: cannot be written; name a file in a folder that exists")


def _progress(unit: str) -> Any:
    """A callback that keeps one line up to date on a terminal and says nothing elsewhere."""

    def tell(done: int, of: int) -> None:
        if err.is_terminal:
            err.print(f"{unit} {done}/{of}", end="\r" if done < of else "\n", highlight=False)

    return tell


def main() -> None:
    """Run the command; turn a user's mistake into one clear line."""
    quick_imports.install()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with ended_by_signals():
        try:
            app(standalone_mode=True)
        except UserError as error:
            err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
            sys.exit(2)


if __name__ == "__main__":
    main()
