import { type DragEvent, useEffect, useRef, useState } from "react";
import { samples } from "@/lib/api";
import { Button } from "./ui/button";

/** The sources of sounds: a file, the microphone, or the sounds that the server generates. */
export function Sounds({
  onFile,
  onSample,
}: {
  onFile: (file: File) => void;
  onSample: (name: string) => void;
}) {
  const [over, setOver] = useState(false);
  const [names, setNames] = useState<string[]>([]);
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    samples().then(setNames, () => setNames([]));
  }, []);
  const drop = (event: DragEvent) => {
    event.preventDefault();
    setOver(false);
    const file = event.dataTransfer.files[0];
    if (file) onFile(file);
  };
  return (
    <div
      data-testid="drop"
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={drop}
      className={`rounded-xl border-2 border-dashed p-5 text-center ${over ? "border-accent" : "border-line"}`}
    >
      <p className="mb-3">Drop a sound here: WAV, FLAC, OGG or MP3</p>
      <div className="flex flex-wrap justify-center gap-2">
        <Button look="main" onClick={() => input.current?.click()}>
          Choose a file
        </Button>
        <Microphone onFile={onFile} />
        <input
          ref={input}
          type="file"
          accept="audio/*,.wav,.flac,.ogg,.opus,.mp3"
          aria-label="A recording"
          className="sr-only"
          tabIndex={-1}
          onChange={(event) => {
            const file = event.target.files?.[0];
            if (file) onFile(file);
            event.target.value = "";
          }}
        />
      </div>
      {names.length > 0 && (
        <p className="mt-4 flex flex-wrap items-center justify-center gap-2 text-sm text-faint">
          or try
          {names.map((name) => (
            <Button key={name} onClick={() => onSample(name)}>
              {name}
            </Button>
          ))}
        </p>
      )}
    </div>
  );
}

/** A button that records until it is pressed again. */
function Microphone({ onFile }: { onFile: (file: File) => void }) {
  const [recorder, setRecorder] = useState<MediaRecorder | null>(null);
  const [refused, setRefused] = useState(false);
  const begin = async () => {
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      const made = new MediaRecorder(stream);
      const chunks: Blob[] = [];
      made.ondataavailable = (event) => chunks.push(event.data);
      made.onstop = () => {
        for (const track of stream.getTracks()) track.stop();
        setRecorder(null);
        void wav(new Blob(chunks)).then(onFile);
      };
      made.start();
      setRecorder(made);
      setRefused(false);
    } catch {
      setRefused(true);
    }
  };
  return (
    <>
      <Button onClick={() => (recorder ? recorder.stop() : void begin())}>
        {recorder ? "Stop recording" : "Record"}
      </Button>
      {refused && (
        <p role="alert" className="basis-full text-sm text-bad">
          The microphone cannot be used: allow it for this page, or choose a file.
        </p>
      )}
    </>
  );
}

/** Convert a browser's recording to WAV of 16 bits and one channel: few programs read the browser's container. */
async function wav(recorded: Blob): Promise<File> {
  const context = new AudioContext();
  const sound = await context.decodeAudioData(await recorded.arrayBuffer());
  await context.close();
  const samples = sound.getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at: number, word: string) => [...word].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, sound.sampleRate, true);
  view.setUint32(28, 2 * sound.sampleRate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, at) => view.setInt16(44 + 2 * at, 32_767 * Math.max(-1, Math.min(1, sample)), true));
  return new File([view], "recording.wav", { type: "audio/wav" });
}
