"""Pydantic models of requests and answers. Their docstrings are in the OpenAPI document."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from audiocnn.review.label_copy import Query, Sort
from serve.options import Arrays, Maps, PredictRequest

_Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]


class PredictOptions(BaseModel):
    """The query of `POST /v1/predict`."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(
        3, ge=1, le=1_000, description="Number of classes in each answer, best first."
    )
    maps: Maps = Field(
        "none",
        description="Feature maps of one window. `layers`: the mean over the channels of `conv1` "
        "and of `layer1` to `layer4`; `blocks`: also of every block; `channels`: single channels "
        "of one `layer`.",
    )
    layer: str | None = Field(
        None,
        max_length=100,
        description="With maps=channels: a layer in `maps` of GET /v1/model; the first layer if "
        "not given.",
    )
    channels: str = Field(
        "0:16",
        pattern=r"^\d{1,5}:\d{1,5}$",
        description="With maps=channels: the channels FIRST:END. END is not included.",
    )
    arrays: Arrays = Field(
        "uint8", description="Data type of the maps, the spectrogram and the evidence."
    )
    explain: str | None = Field(
        None,
        max_length=1_000,
        description="Class to return evidence for: Grad-CAM over the window's log-mel.",
    )
    sound: bool = Field(
        False, description="With explain: return the sound of the evidence too, as WAV in base64."
    )
    window: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="Window to inspect, from 0. If not given: the window in which the recording's "
        "class has its highest score.",
    )
    window_s: _Seconds | None = Field(
        None, description="Length of a window in seconds. If not given: as in training."
    )
    hop_s: _Seconds | None = Field(
        None,
        description="Seconds from one window to the next. If not given: as in training, but at "
        "most `window_s`.",
    )
    peaks: int = Field(1_000, ge=1, le=20_000, description="Number of columns of the waveform.")
    spectrogram: bool = Field(True, description="Return the log-mel of the inspected window.")
    beside: bool = Field(False, description="Use the second bundle: see `beside` of GET /v1/model.")

    @model_validator(mode="after")
    def _fits(self) -> "PredictOptions":
        first, end = map(int, self.channels.split(":"))
        if not first < end <= first + 256:
            raise ValueError("channels: FIRST must be below END, with at most 256 channels")
        if self.sound and self.explain is None:
            raise ValueError("sound: needs a class in explain")
        return self

    def to_request(self) -> PredictRequest:
        """Return the options for the service."""
        values: dict[str, Any] = self.model_dump(exclude={"beside"})
        first, end = self.channels.split(":")
        return PredictRequest(**values | {"channels": (int(first), int(end))})


class CardOptions(BaseModel):
    """The query of `GET /v1/model`."""

    model_config = ConfigDict(extra="forbid")

    beside: bool = Field(False, description="Describe the second bundle.")


class Array(BaseModel):
    """An array. `data` is its bytes in base64, row by row, little-endian.

    uint8: value = min + byte / 255 * (max - min). float16: the values themselves.
    """

    shape: list[int]
    dtype: Literal["uint8", "float16"]
    min: float
    max: float
    data: str


class Score(BaseModel):
    """The calibrated score of a class, from 0 to 1."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")
    score: float


class WindowAnswer(BaseModel):
    """Answer for a time range; `label` is "unknown" if `score` is below the class's threshold."""

    start_s: float
    end_s: float
    label: str
    score: float
    known: bool
    predictions: list[Score]


class RecordingInfo(BaseModel):
    """Properties of the recording in the request."""

    container: str
    sample_rate_hz: int
    channels: int
    duration_s: float


class Waveform(BaseModel):
    """The minimum and maximum sample in each of equal time ranges of the recording."""

    duration_s: float
    min: Array
    max: Array


class Input(BaseModel):
    """The log-mel of one window, which is the model's input, [bands, frames]."""

    window: int
    start_s: float
    end_s: float
    frame_s: float
    band_hz: list[float]
    unit: Literal["dB"]
    values: Array


class Evidence(BaseModel):
    """How much each place of the log-mel supports a class, from 0 to 1, [bands, frames]."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")
    method: str
    values: Array
    wav: str | None = Field(None, description="The sound of the marked places, as WAV in base64.")


class PredictAnswer(WindowAnswer):
    """The answer of `POST /v1/predict`."""

    windows: list[WindowAnswer]
    recording: RecordingInfo
    waveform: Waveform
    input: Input | None = None
    maps: dict[str, Array] | None = None
    activations: Array | None = None
    evidence: Evidence | None = None
    timings_ms: dict[str, float]
    bundle: str


class TutorialRequest(BaseModel):
    """The body of `POST /inference`."""

    audio_data: str = Field(description="A recording in base64.")


class TutorialScore(BaseModel):
    """One of the three best classes."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")
    confidence: float


class TutorialArray(BaseModel):
    """An array as nested lists of numbers."""

    shape: list[int]
    values: list[list[float]]


class TutorialWaveform(BaseModel):
    """Every n-th sample of the recording, at most 8,000 samples."""

    values: list[float]
    sample_rate: int
    duration: float


class TutorialAnswer(BaseModel):
    """The answer of `POST /inference`, in the format that the tutorial's clients read."""

    predictions: list[TutorialScore]
    visualization: dict[str, TutorialArray]
    input_spectrogram: TutorialArray
    waveform: TutorialWaveform


class Card(BaseModel):
    """The answer of `GET /v1/model`."""

    bundle: str
    classes: list[str]
    feature: dict[str, Any]
    model: dict[str, Any]
    calibration: dict[str, Any]
    metrics: dict[str, Any]
    maps: list[str]
    limits: dict[str, Any]
    labels: bool = Field(description="Whether the endpoint has labels to browse.")
    beside: str | None = Field(
        description="Fingerprint of the second bundle; null if there is none."
    )


class LabelledClass(BaseModel):
    """A class and its number of windows."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")
    windows: int


class LabelsCard(BaseModel):
    """The answer of `GET /v1/labels`, with the sums over the parts that were read so far."""

    bucket: str
    bundle: str
    listed: bool = Field(
        description="Whether the parts were listed. If not, repeat the request later."
    )
    finished: bool
    parts: int
    parts_read: int
    recordings: int
    failed: int
    windows: int
    classes: list[LabelledClass]
    trouble: str | None = Field(description="Why the labels are not up to date; null if they are.")


class LabelsOptions(BaseModel):
    """The query of `GET /v1/labels/windows`."""

    model_config = ConfigDict(extra="forbid")

    label: str | None = Field(None, max_length=200)
    name: str = Field(
        "", max_length=200, description="Part of the recording's URI; case is ignored."
    )
    lowest: float = Field(0.0, ge=0, le=1, description="Lowest score to return.")
    highest: float = Field(1.0, ge=0, le=1, description="Highest score to return.")
    sort: Sort = "highest"
    offset: int = Field(0, ge=0, le=10**9)
    limit: int = Field(50, ge=1, le=500)
    revision: str | None = Field(
        None,
        max_length=16_000,
        description="`revision` of the first page. With it, all pages show the same labels, even "
        "if the labels grow.",
    )

    def query(self) -> Query:
        """Return the query of the labels."""
        return Query(**self.model_dump())


class LabelledWindow(BaseModel):
    """A window of a labelled bucket."""

    uri: str
    name: str = Field(description="The recording's path below the bucket.")
    start_s: float
    end_s: float
    label: str
    score: float


class LabelledWindows(BaseModel):
    """The answer of `GET /v1/labels/windows`."""

    total: int
    histogram: list[int] = Field(
        description="Number of windows with this label and name, in each of equal ranges of scores "
        "from 0 to 1."
    )
    rows: list[LabelledWindow]
    revision: str = Field(
        description="Name of the set of labels that was read. Send it with requests for more pages."
    )


class Correction(BaseModel):
    """A corrected window. An empty `label` means: wrong, but the right class is not known."""

    model_config = ConfigDict(extra="forbid")

    uri: str = Field(max_length=4_096)
    start_s: float = Field(allow_inf_nan=False)
    label: str = Field(max_length=1_000)


class Corrections(BaseModel):
    """The body of `POST /v1/labels/corrections`."""

    model_config = ConfigDict(extra="forbid")

    rows: list[Correction] = Field(max_length=100_000)


class Health(BaseModel):
    """The state of the endpoint and the fingerprint of its bundle."""

    status: Literal["ok"]
    bundle: str


class ProblemBody(BaseModel):
    """An error, in the format of RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
