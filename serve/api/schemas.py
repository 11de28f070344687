"""The wire: what a request may say, and what an answer looks like."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from audiocnn.review.label_copy import Query, Sort
from serve.options import Arrays, Maps, PredictRequest

_Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]


class PredictOptions(BaseModel):
    """The query of `POST /v1/predict`."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(3, ge=1, le=1_000, description="Classes of each answer, best first.")
    maps: Maps = Field(
        "none",
        description="Feature maps of one window: of `conv1` and `layer1` to `layer4`, or of every "
        "block too, each the mean of its channels; or single `channels` of one `layer`.",
    )
    layer: str | None = Field(
        None, max_length=100, description="With maps=channels: whose, as `maps` of GET /v1/model."
    )
    channels: str = Field(
        "0:16",
        pattern=r"^\d{1,5}:\d{1,5}$",
        description="With maps=channels: which, FIRST:END; END is left out.",
    )
    arrays: Arrays = Field("uint8", description="How maps and spectrogram travel.")
    explain: str | None = Field(
        None, max_length=1_000, description="A class: Grad-CAM, where the window speaks for it."
    )
    sound: bool = Field(
        False, description="With explain: the sound of those places, a WAV in base64."
    )
    window: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="Window to look into, from 0; the one that says most for the answer if not "
        "given.",
    )
    window_s: _Seconds | None = Field(None, description="Length of a window; as trained.")
    hop_s: _Seconds | None = Field(None, description="From one window to the next; as trained.")
    peaks: int = Field(1_000, ge=1, le=20_000, description="Columns of the waveform.")
    spectrogram: bool = Field(True, description="The log-mel of the window that is looked into.")
    beside: bool = Field(False, description="By the bundle that stands beside: see /v1/model.")

    @model_validator(mode="after")
    def _fits(self) -> "PredictOptions":
        first, end = map(int, self.channels.split(":"))
        if not first < end <= first + 256:
            raise ValueError("channels: FIRST must be below END, with at most 256 channels")
        if self.sound and self.explain is None:
            raise ValueError("sound: give a class by explain too")
        return self

    def asked(self) -> PredictRequest:
        """The same for the service."""
        values: dict[str, Any] = self.model_dump(exclude={"beside"})
        first, end = self.channels.split(":")
        return PredictRequest(**values | {"channels": (int(first), int(end))})


class CardOptions(BaseModel):
    """The query of `GET /v1/model`."""

    model_config = ConfigDict(extra="forbid")

    beside: bool = Field(False, description="That of the bundle that stands beside.")


class Array(BaseModel):
    """An array: `data` is base64 of its bytes, row by row, little-endian.

    uint8: value = min + byte / 255 * (max - min). float16: the values themselves.
    """

    shape: list[int]
    dtype: Literal["uint8", "float16"]
    min: float
    max: float
    data: str


class Score(BaseModel):
    """One class's calibrated score, within 0 and 1."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")
    score: float


class Window(BaseModel):
    """An answer for a stretch of time; `label` is "unknown" below its class's threshold."""

    start_s: float
    end_s: float
    label: str
    score: float
    known: bool
    predictions: list[Score]


class RecordingInfo(BaseModel):
    """What was sent."""

    container: str
    sample_rate_hz: int
    channels: int
    duration_s: float


class Waveform(BaseModel):
    """Least and greatest sample of equal stretches of the whole recording."""

    duration_s: float
    min: Array
    max: Array


class Input(BaseModel):
    """The log-mel of one window as the model saw it, [bands, frames]."""

    window: int
    start_s: float
    end_s: float
    frame_s: float
    band_hz: list[float]
    unit: Literal["dB"]
    values: Array


class Evidence(BaseModel):
    """Where the window speaks for a class, 0 to 1, [bands, frames]."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")
    method: str
    values: Array
    wav: str | None = Field(None, description="The sound of those places, a WAV in base64.")


class Answer(Window):
    """What `POST /v1/predict` says."""

    windows: list[Window]
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
    """Nested lists of numbers."""

    shape: list[int]
    values: list[list[float]]


class TutorialWaveform(BaseModel):
    """Every n-th sample, 8000 at most."""

    values: list[float]
    sample_rate: int
    duration: float


class TutorialAnswer(BaseModel):
    """What `POST /inference` says, as the tutorial's clients expect it."""

    predictions: list[TutorialScore]
    visualization: dict[str, TutorialArray]
    input_spectrogram: TutorialArray
    waveform: TutorialWaveform


class Card(BaseModel):
    """What `GET /v1/model` says."""

    bundle: str
    classes: list[str]
    feature: dict[str, Any]
    model: dict[str, Any]
    calibration: dict[str, Any]
    metrics: dict[str, Any]
    maps: list[str]
    limits: dict[str, Any]
    labels: bool = Field(description="Whether there are labels to look through.")
    beside: str | None = Field(description="The bundle that stands beside, where there is one.")


class LabelledClass(BaseModel):
    """A class and its windows."""

    model_config = ConfigDict(populate_by_name=True)

    name: str = Field(alias="class")
    windows: int


class LabelsCard(BaseModel):
    """What `GET /v1/labels` says: the sums of the parts that were read so far."""

    bucket: str
    bundle: str
    listed: bool = Field(description="Whether the parts were listed; until then ask again.")
    finished: bool
    parts: int
    parts_read: int
    recordings: int
    failed: int
    windows: int
    classes: list[LabelledClass]
    trouble: str | None = Field(description="Why it is not up to date.")


class LabelsOptions(BaseModel):
    """The query of `GET /v1/labels/windows`."""

    model_config = ConfigDict(extra="forbid")

    label: str | None = Field(None, max_length=200)
    name: str = Field("", max_length=200, description="Part of the recording's URI.")
    lowest: float = Field(0.0, ge=0, le=1, description="Score.")
    highest: float = Field(1.0, ge=0, le=1, description="Score.")
    sort: Sort = "highest"
    offset: int = Field(0, ge=0, le=10**9)
    limit: int = Field(50, ge=1, le=500)
    revision: str | None = Field(
        None,
        max_length=16_000,
        description="That of the first page, for pages of the same labels while they grow.",
    )

    def query(self) -> Query:
        """The same for the labels."""
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
    """What `GET /v1/labels/windows` found."""

    total: int
    histogram: list[int] = Field(
        description="Windows of this label and name by score, from 0 to 1 in equal steps."
    )
    rows: list[LabelledWindow]
    revision: str = Field(description="Of what labels this is; for the pages that follow.")


class Correction(BaseModel):
    """What a person says that a window is."""

    model_config = ConfigDict(extra="forbid")

    uri: str = Field(max_length=4_096)
    start_s: float = Field(allow_inf_nan=False)
    label: str = Field(max_length=1_000)


class Corrections(BaseModel):
    """The body of `POST /v1/labels/corrections`."""

    model_config = ConfigDict(extra="forbid")

    rows: list[Correction] = Field(max_length=100_000)


class Health(BaseModel):
    """Whether it lives, and with which bundle."""

    status: Literal["ok"]
    bundle: str


class ProblemBody(BaseModel):
    """What is wrong, as RFC 9457 has it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
