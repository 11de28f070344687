import type { ComponentProps } from "react";

const looks = {
  main: "bg-accent text-on-accent border-accent hover:opacity-90",
  plain: "bg-card text-ink border-line hover:border-accent",
  quiet: "border-transparent text-faint hover:text-ink",
};

/** A button; its look is `plain` by default. */
export function Button({
  look = "plain",
  className = "",
  ...rest
}: ComponentProps<"button"> & { look?: keyof typeof looks }) {
  return (
    <button
      type="button"
      className={`inline-flex min-h-9 cursor-pointer items-center gap-2 rounded-md border px-3 py-1.5 text-sm font-medium disabled:cursor-default disabled:opacity-50 ${looks[look]} ${className}`}
      {...rest}
    />
  );
}
