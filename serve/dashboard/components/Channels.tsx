import { useMemo } from "react";
import { short } from "@/lib/axes";
import { colours, fitting } from "@/lib/colour";
import type { Grid } from "@/lib/grid";
import type { Player } from "@/lib/player";
import { Figure, type Span } from "./Figure";
import { Legend } from "./Legend";
import { Pixels, Tile } from "./Pixels";
import { Select } from "./ui/select";

const orders = { activation: "most active first", index: "in the model's order" };
type Order = keyof typeof orders;

/** Every channel of one map, in one scale; one of them can be shown large. */
export function Channels({
  layer,
  channels,
  activations,
  span,
  player,
  order,
  chosen,
  onOrder,
  onChoose,
}: {
  layer: string;
  channels: Grid[];
  activations: Float32Array;
  span: Span;
  player: Player;
  order: Order;
  chosen: number | undefined;
  onOrder: (order: Order) => void;
  onChoose: (channel: number | undefined) => void;
}) {
  const first = channels[0];
  const shades = useMemo(
    () => colours(fitting(first?.min ?? 0, first?.max ?? 1), first?.min ?? 0, first?.max ?? 1),
    [first],
  );
  const sorted = useMemo(() => {
    const all = channels.map((_, at) => at);
    return order === "index" ? all : all.sort((a, b) => (activations[b] ?? 0) - (activations[a] ?? 0));
  }, [channels, activations, order]);
  if (!first) return null;
  const shown = chosen === undefined ? undefined : channels[chosen];
  return (
    <div>
      <div className="mb-3 flex flex-wrap items-center justify-between gap-3 text-sm">
        <p className="text-faint">
          {layer}: {channels.length} channels of {first.rows} × {first.columns}
        </p>
        <div className="flex items-center gap-4">
          <Select
            label="Order of channels"
            value={orders[order]}
            options={Object.values(orders)}
            onChange={(text) => onOrder(text === orders.index ? "index" : "activation")}
          />
          <div className="h-10 text-xs text-faint">
            <Legend colours={shades} min={first.min} max={first.max} />
          </div>
        </div>
      </div>
      {shown && (
        <div className="mb-4">
          <Figure
            span={span}
            player={player}
            className="h-40"
            label={`Channel ${chosen} of ${layer}`}
            right={<Legend colours={shades} min={shown.min} max={shown.max} />}
          >
            <Pixels of={shown} colours={shades} className="h-full w-full" />
          </Figure>
          <p className="mt-1 ml-16 text-xs text-faint">
            channel {chosen}: mean {short(activations[chosen ?? 0] ?? 0)}; the places where it is active are marked on the
            spectrogram
          </p>
        </div>
      )}
      <ul className="grid max-h-96 grid-cols-[repeat(auto-fill,minmax(5.5rem,1fr))] gap-2 overflow-auto p-1">
        {sorted.map((at) => (
          <li key={at} className="[contain-intrinsic-size:5rem_4rem] [content-visibility:auto]">
            <button
              type="button"
              aria-pressed={at === chosen}
              onClick={() => onChoose(at === chosen ? undefined : at)}
              className="block w-full cursor-pointer rounded border border-line p-1 text-left text-xs text-faint aria-pressed:border-accent aria-pressed:outline-2 aria-pressed:outline-accent"
            >
              <Tile of={channels[at] ?? first} colours={shades} className="h-10 w-full" />
              <span className="flex justify-between tabular-nums">
                <span>{at}</span>
                <span>{short(activations[at] ?? 0)}</span>
              </span>
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
