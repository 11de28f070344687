/** Plays one sound at a time. Everything that draws a cursor subscribes to it. */
export class Player {
  private readonly audio = new Audio();
  private readonly listeners = new Set<(time: number, playing: boolean) => void>();
  private offset = 0;
  private frame = 0;

  constructor() {
    for (const event of ["play", "pause", "seeked", "ended", "loadedmetadata"]) {
      this.audio.addEventListener(event, this.tell);
    }
  }

  /** The playback position, in seconds of the recording. */
  get time(): number {
    return this.offset + this.audio.currentTime;
  }

  get ended(): boolean {
    return this.audio.ended;
  }

  get playing(): boolean {
    return !this.audio.paused && !this.audio.ended;
  }

  /** Load a sound that begins at `offset` seconds of the recording. */
  load(url: string, offset = 0): void {
    if (this.audio.src === url && this.offset === offset) return;
    this.audio.pause();
    this.offset = offset;
    this.audio.src = url;
  }

  async play(): Promise<void> {
    try {
      await this.audio.play();
    } catch (error) {
      const paused = error instanceof DOMException && error.name === "AbortError";
      if (!paused) throw error; // an AbortError only means that it was paused before it began
    }
  }

  pause(): void {
    this.audio.pause();
  }

  seek(time: number): void {
    this.audio.currentTime = Math.max(0, time - this.offset);
    this.tell();
  }

  close(): void {
    this.audio.pause();
    this.audio.removeAttribute("src");
    cancelAnimationFrame(this.frame);
  }

  subscribe(listener: (time: number, playing: boolean) => void): () => void {
    this.listeners.add(listener);
    listener(this.time, this.playing);
    return () => this.listeners.delete(listener);
  }

  private readonly tell = (): void => {
    cancelAnimationFrame(this.frame);
    for (const listener of this.listeners) listener(this.time, this.playing);
    if (this.playing) this.frame = requestAnimationFrame(this.tell);
  };
}
