import { useEffect, useMemo, useState } from "react";
import { predict, type PredictAnswer, Trouble } from "@/lib/api";
import { useAsked } from "@/lib/asked";
import { type Grid, grid, grids, values } from "@/lib/grid";
import { Player } from "@/lib/player";
import type { View } from "@/lib/view";
import { Channels } from "./Channels";
import { Layers } from "./Layers";
import { Problem } from "./Problem";
import { Recording } from "./Recording";
import { Scores } from "./Scores";
import { Seen } from "./Seen";
import { Button } from "./ui/button";
import { Card } from "./ui/card";
import { Select } from "./ui/select";

interface Evidence {
  name: string;
  marks: Grid;
  url: string;
}

interface Fired {
  layer: string;
  channels: Grid[];
  activations: Float32Array;
}

const MOST_CHANNELS = 256;

/** One sound: its waveform, scores, model input, feature maps and channels. */
export function Panel({
  sound,
  beside = false,
  classes,
  view,
  onView,
}: {
  sound: File;
  /** Whether the second bundle answers. */
  beside?: boolean;
  classes: string[];
  view: View;
  onView: (change: View) => void;
}) {
  const id = useMemo(() => crypto.randomUUID?.() ?? String(Math.random()), [sound]);
  const player = useMemo(() => new Player(), []);
  const url = useMemo(() => URL.createObjectURL(sound), [sound]);
  useEffect(() => () => player.pause(), [player]);
  const [heard, setHeard] = useState<string | null>(null);

  const answered = useAsked<PredictAnswer>(`${id} ${view.window ?? ""}`, (signal) =>
    predict(sound, { beside, maps: "blocks", top_k: 5, window: view.window }, signal),
  );
  const [kept, setKept] = useState<{ id: string; answer: PredictAnswer } | null>(null);
  if (answered.found && kept?.answer !== answered.found) setKept({ id, answer: answered.found });
  const answer = answered.found ?? (kept?.id === id ? kept.answer : undefined);
  const playable = answer !== undefined;
  useEffect(() => {
    if (playable) player.load(url);
  }, [player, url, playable]);
  const window = answer?.input?.window;
  const name = view.explain && classes.includes(view.explain) ? view.explain : answer?.predictions[0]?.class;
  const ready = answered.found && name !== undefined;

  const evidence = useAsked<Evidence>(ready ? `${id} ${window} ${name}` : null, async (signal) => {
    const options = { beside, explain: name, sound: true, window, spectrogram: false, top_k: 1, peaks: 1 };
    const { evidence: found } = await predict(sound, options, signal);
    if (!found || !name) throw new Trouble("page", "The server gave no evidence.");
    return { name, marks: grid(found.values), url: `data:audio/wav;base64,${found.wav ?? ""}` };
  });

  const layer = view.layer && answer?.maps && view.layer in answer.maps ? view.layer : undefined;
  const fired = useAsked<Fired>(answered.found && layer ? `${id} ${window} ${layer}` : null, async (signal) => {
    const of = layer ?? "";
    const channels: Grid[] = [];
    let activations = new Float32Array();
    for (let first = 0; first === 0 || first < activations.length; first += MOST_CHANNELS) {
      const options = {
        beside, maps: "channels", layer: of, channels: `${first}:${first + MOST_CHANNELS}`, window,
        spectrogram: false, top_k: 1, peaks: 1,
      } as const;
      const found = await predict(sound, options, signal);
      const map = found.maps?.[of];
      if (!map || !found.activations) throw new Trouble("page", "The server gave no channels.");
      channels.push(...grids(map));
      activations = values(found.activations) as Float32Array<ArrayBuffer>;
    }
    return { layer: of, channels: oneScale(channels), activations };
  });

  const channel = fired.found && view.channel !== undefined ? fired.found.channels[view.channel] : undefined;
  const listen = (to: string, offset: number) => {
    player.load(to, offset);
    setHeard(to === url ? null : to);
    void player.play();
  };

  if (!answer) {
    return answered.trouble ? (
      <Problem trouble={answered.trouble} onAgain={answered.again} />
    ) : (
      <p role="status" className="p-6 text-center text-faint">
        Analysing {sound.name} …
      </p>
    );
  }
  const { input, maps } = answer;
  const mark = channel
    ? { of: positive(channel), what: `where channel ${view.channel} of ${layer} is active` }
    : evidence.found
      ? { of: evidence.found.marks, what: `evidence for ${evidence.found.name}` }
      : null;
  return (
    <div className="grid gap-4" aria-busy={answered.waiting}>
      {answered.trouble && <Problem trouble={answered.trouble} onAgain={answered.again} />}
      <Recording
        name={sound.name}
        answer={answer}
        player={player}
        looked={window ?? 0}
        onLook={(at) => onView({ window: at, channel: undefined })}
      />
      <Scores answer={answer} looked={window ?? 0} />
      {input && (
        <Card
          title="Model input and evidence"
          aside={
            <div className="flex flex-wrap items-center gap-2 text-sm text-faint">
              {channel ? (
                <>
                  marked: {mark?.what}
                  <Button onClick={() => onView({ channel: undefined })}>Show evidence instead</Button>
                </>
              ) : (
                "marked: evidence for"
              )}
              <Select
                label="Class that evidence is shown for"
                value={name ?? ""}
                options={classes}
                onChange={(explain) => onView({ explain, channel: undefined })}
              />
              <Button
                disabled={!evidence.found}
                onClick={() => evidence.found && listen(evidence.found.url, input.start_s)}
              >
                Play only the evidence
              </Button>
              {heard && <Button onClick={() => listen(url, 0)}>Play the whole sound</Button>}
            </div>
          }
        >
          <Seen input={input} player={player} mark={mark} />
          {evidence.trouble && <Problem trouble={evidence.trouble} onAgain={evidence.again} />}
        </Card>
      )}
      {input && maps && (
        <Card title="Layer by layer">
          <Layers
            maps={maps}
            span={{ from: input.start_s, to: input.end_s }}
            player={player}
            open={layer}
            onOpen={(opened) => onView({ layer: opened === layer ? undefined : opened, channel: undefined })}
          />
        </Card>
      )}
      {layer && (
        <Card title={`Channels of ${layer}`}>
          {fired.trouble && <Problem trouble={fired.trouble} onAgain={fired.again} />}
          {fired.waiting && <p role="status">Fetching the channels …</p>}
          {fired.found && (
            <Channels
              {...fired.found}
              span={{ from: input?.start_s ?? 0, to: input?.end_s ?? 1 }}
              player={player}
              order={view.sort ?? "activation"}
              chosen={view.channel}
              onOrder={(order) => onView({ sort: order === "index" ? "index" : undefined })}
              onChoose={(chosen) => onView({ channel: chosen })}
            />
          )}
        </Card>
      )}
    </div>
  );
}

/** Convert grids of several answers, each in its own scale, to one common scale. */
function oneScale(channels: Grid[]): Grid[] {
  const min = Math.min(...channels.map((one) => one.min));
  const max = Math.max(...channels.map((one) => one.max));
  const scale = max > min ? 255 / (max - min) : 0;
  return channels.map((one) =>
    one.min === min && one.max === max
      ? one
      : {
          ...one,
          min,
          max,
          bytes: one.bytes.map((byte) => (one.min + (byte / 255) * (one.max - one.min) - min) * scale + 0.5),
        },
  );
}

/** The positive values of a channel, scaled from 0 to the channel's maximum: the places where it is active. */
function positive(channel: Grid): Grid {
  const level = (byte: number) => channel.min + (byte / 255) * (channel.max - channel.min);
  const most = Math.max(...channel.bytes.map((byte) => Math.max(0, level(byte) * 255)), 1e-9) / 255;
  return { ...channel, min: 0, max: most, bytes: channel.bytes.map((byte) => (255 * Math.max(0, level(byte))) / most) };
}
