"""All sound in a file is read, even if its header is wrong, or an error says how much was found."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audiocnn.audio.containers.mp3 import read_mp3
from audiocnn.audio.containers.ogg import read_links
from audiocnn.audio.containers.wav import open_wav
from audiocnn.audio.decode import decode, read_info
from audiocnn.audio.encode import encode
from audiocnn.config import AudioLimits
from audiocnn.errors import AudioError
from helpers.hostile import ID3, ID3V1, flac_that_says, pcm, rf64, sound, wav


def decoded(data: bytes, rate: int = 16_000) -> np.ndarray:
    return np.concatenate(list(decode(data, rate)))


WHOLE = {container: decoded(sound(container)) for container in ("wav", "flac", "ogg", "mp3")}


class Counting(io.BytesIO):
    """A file that counts its reads, and the bytes that they returned."""

    reads = count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.reads, self.count = self.reads + 1, self.count + len(data)
        return data


def with_size(data: bytes, size: int) -> bytes:
    """Return a WAV with another size in the header of its data chunk."""
    at = data.index(b"data") + 4
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


# WAV.


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW"])
@pytest.mark.parametrize("said", [0, 8_000, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_wav_is_read_to_its_end_where_its_size_is_wrong(subtype: str, said: int) -> None:
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal((32_000, 2))
    soundfile.write(buffer, noise, 16_000, format="WAV", subtype=subtype)
    right = buffer.getvalue()
    wrong = with_size(right, said)
    assert np.array_equal(decoded(wrong), decoded(right))
    assert read_info(wrong).frames == 32_000


def test_what_does_not_sound_like_it_is_not_read_and_not_passed_over() -> None:
    with pytest.raises(AudioError, match=r"truncated: .* 64000 bytes of sound, and 69000 bytes"):
        decoded(sound("wav") + np.random.default_rng(1).bytes(5_000))


@pytest.mark.parametrize("behind", [4, 0x1_0000])
def test_a_wav_of_over_4_gb_is_as_long_as_it_is(tmp_path: Path, behind: int) -> None:
    """The size field has 32 bits, so the size wraps around to a small number."""
    size = (1 << 32) + 64_000
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(wav(pcm(), data=64_000)[:-4])
        file.seek(44 + size)
        file.write(b"LIST" + struct.pack("<I", behind) + bytes(behind))
    with path.open("rb") as file:
        assert read_info(file, AudioLimits(max_duration_s=1e6)).frames == size // 2


@pytest.mark.parametrize("magic", [b"RF64", b"BW64"])
def test_sizes_in_64_bits_are_believed(magic: bytes) -> None:
    chunk = b"LIST\x04\0\0\0info"
    assert np.array_equal(decoded(rf64(pcm(), magic=magic) + chunk), WHOLE["wav"])
    with pytest.raises(AudioError, match="truncated: 63000 of 64000 bytes"):
        decoded(rf64(pcm()[:-1_000], magic=magic, data=64_000))


def test_libsndfile_is_given_a_plain_header(tmp_path: Path) -> None:
    """libsndfile then reads exactly the bytes that are sound, also beyond 4 GB."""
    size = (1 << 32) + 48_002  # a whole number of frames of three bytes
    path = tmp_path / "long.wav"
    tail = np.random.default_rng(0).integers(-(2**20), 2**20, 16_000, np.int32)
    with path.open("wb") as file:
        file.write(wav(b"", bits=24, data=48_002))
        file.seek(44 + size - 48_000)
        file.write(tail.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    with path.open("rb") as file:
        frames = open_wav(file, 0)
        assert frames.info.frames == size // 3
        first = frames.block_before(frames.info.frames - 16_000)
        found = np.concatenate(list(frames.blocks(first)))[-16_000:, 0]
        frames.close()
    assert np.array_equal(found, (tail / 2**23).astype(np.float32))


# OGG.


@pytest.mark.parametrize("links", [2, 3, 5])
def test_a_stream_that_was_taken_up_again_is_read_to_its_end(links: int) -> None:
    seconds = [2.0 + 0.7 * n for n in range(links)]
    parts = [sound("ogg", one) for one in seconds]
    expected = np.concatenate([decoded(part) for part in parts])
    joined = b"".join(parts)
    assert np.array_equal(decoded(joined), expected)
    assert read_info(joined).frames == len(expected)
    # After a broken connection, the first stream lacks its last page; other bytes replace it.
    broken = parts[0][: parts[0].rfind(b"OggS")] + b"lost" + joined[len(parts[0]) :]
    assert np.array_equal(decoded(broken)[-len(decoded(parts[-1])) :], decoded(parts[-1]))


def test_an_opus_is_chained_too() -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(96_000)
    one = encode(noise, 48_000, "ogg", "OPUS")
    assert len(decoded(one + one, 48_000)) == 2 * len(decoded(one, 48_000))


def test_a_byte_of_something_else_behind_every_page_costs_a_byte() -> None:
    page = b"OggS\0%c" + bytes(21) + b"x"
    file = Counting(page % 2 + 20_000 * (page % 0) + page % 4)
    assert len(read_links(file)) == 1
    assert file.count < 20 * len(file.getvalue())


# FLAC.


@pytest.mark.parametrize("said", [0, 1, 1_000, 16_000, 31_999, 32_000])
def test_a_flac_is_read_to_its_end_where_its_header_says_less(said: int) -> None:
    assert np.array_equal(decoded(flac_that_says(said)), WHOLE["flac"])


@pytest.mark.parametrize("behind", [ID3V1, bytes(5_000), np.random.default_rng(1).bytes(50_000)])
def test_what_follows_a_flac_is_none_of_its_frames(behind: bytes) -> None:
    long = encode(0.1 * np.random.default_rng(0).standard_normal(300_000), 16_000, "flac")
    for data, whole in ((sound("flac"), WHOLE["flac"]), (long, decoded(long))):
        assert np.array_equal(decoded(data + behind), whole)


# MP3.


APE = b"APETAGEX" + struct.pack("<IIIIQ", 2_000, 128, 1, 0xA000_0000, 0) + bytes(128)


@pytest.mark.parametrize("between", [b"", ID3, ID3V1, ID3V1 + ID3, APE + ID3V1, APE + ID3V1 + ID3])
def test_joined_mp3s_are_read_to_the_end_of_the_last(between: bytes) -> None:
    parts = [sound("mp3", seconds) for seconds in (2.0, 3.0, 4.0)]
    found = decoded(between.join(parts))
    assert abs(len(found) - 9 * 16_000) < 6 * 1_152
    assert np.sqrt(np.mean(found[-16_000:] ** 2)) > 0.05


def test_an_mp3_that_ends_early_says_where() -> None:
    data = sound("mp3")
    with pytest.raises(AudioError, match=rf"at byte \d+ of {len(data) - 7}"):
        decoded(data[:-7])


# Tags in front.


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("tags", [ID3, ID3 + ID3])
def test_tags_in_front_of_a_recording_are_passed_over(container: str, tags: bytes) -> None:
    assert np.array_equal(decoded(tags + sound(container)), WHOLE[container])
    assert read_info(tags + sound(container)).container == container


def id3(size: int, said: int | None = None) -> bytes:
    """Return a tag with `size` bytes after its header; the header states `said` bytes."""
    said = size if said is None else said
    return b"ID3\x04\0\0" + bytes(said >> bits & 0x7F for bits in (21, 14, 7, 0)) + bytes(size)


def test_a_tag_at_the_end_may_hold_what_looks_like_sound() -> None:
    whole = sound("mp3")
    tag = bytearray(id3(len(whole)))
    tag[10:] = whole
    assert len(decoded(whole + bytes(tag))) == len(decoded(whole))


@pytest.mark.parametrize("container", ["wav", "flac", "ogg", "mp3"])
def test_thousands_of_tags_in_a_row_are_not_read_to_their_end(container: str) -> None:
    file = Counting(100_000 * id3(0) + sound(container))
    with pytest.raises(AudioError, match="unrecognised: it begins with more than 100 ID3 tags"):
        read_info(file)
    assert file.reads < 200
    assert np.array_equal(decoded(100 * id3(0) + sound(container)), WHOLE[container])
    file = Counting(sound("mp3") + 100_000 * id3(0))
    assert read_mp3(file) is not None
    assert file.reads < 1_000


def test_a_large_tag_in_front_of_an_mp3_is_not_kept_in_memory() -> None:
    data = id3(20_000_000) + sound("mp3")
    file = Counting(data)
    mp3 = read_mp3(file)
    assert mp3 is not None
    assert len(mp3.head) < 1_000
    assert file.count < 1_000_000
    assert np.array_equal(decoded(data), WHOLE["mp3"])


@pytest.mark.parametrize("said", [0, 100, 5_000, 100_000_000])
def test_a_tag_that_lies_about_its_size_hides_no_sound(said: int) -> None:
    with pytest.raises(AudioError, match=r"truncated: \d+ whole MP3 frames end at byte"):
        decoded(sound("mp3") + id3(1_000, said) + sound("mp3"))
    behind = sound("mp3") + id3(1_000, said)
    assert np.array_equal(decoded(behind), WHOLE["mp3"])


def test_what_might_begin_a_frame_at_every_place_is_looked_at_once() -> None:
    file = Counting(400_000 * b"\xff\xfb\x90\0")  # each could begin a frame of 417 bytes
    assert read_mp3(file) is None
    assert file.reads < 10
    assert file.count < 2 * len(file.getvalue())


@pytest.mark.parametrize("container", ["wav", "flac"])
@pytest.mark.parametrize("second_s", [0.2, 3.0])
def test_a_recording_behind_another_is_not_passed_over(container: str, second_s: float) -> None:
    """The file is like the result of `cat a.wav b.wav > c.wav`."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(round(16_000 * second_s))
    with pytest.raises(AudioError, match="truncated: another recording follows its"):
        decoded(sound(container) + encode(noise, 16_000, container))


def test_a_size_that_a_pipe_might_give_is_believed_where_so_much_is_there(tmp_path: Path) -> None:
    """Recorders begin a new file at 2 GiB, and may write chunks after the sound."""
    size, path = 0x7FFF_F000, tmp_path / "long.wav"
    with path.open("wb") as file:
        file.write(wav(pcm(), data=size)[:44])
        file.seek(44 + size)
        file.write(b"LIST" + struct.pack("<I", 4_096) + bytes(4_096))
    with path.open("rb") as file:
        assert read_info(file).frames == size // 2


def test_what_a_sampler_wrote_behind_the_sound_may_be_cut() -> None:
    cut = sound("wav") + b"smpl" + struct.pack("<I", 5_000) + bytes(range(1, 251)) * 3
    assert np.array_equal(decoded(cut), WHOLE["wav"])
