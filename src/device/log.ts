/** Where a device's messages go. Each `message` is one report; a report may have several lines (a hex dump, a list). */
export interface DeviceLog {
  /** Something is wrong, as `message` says: corruption, a busy destroy, a leak. */
  error(message: string): void;
  /** Something is likely wrong, as `message` says. */
  warn(message: string): void;
  /** `message` is worth knowing. */
  info(message: string): void;
}

/** The default log: the console, with the package's name before each message as the kernel puts a driver's. */
export const consoleLog: DeviceLog = { error: printer('error'), warn: printer('warn'), info: printer('info') };

function printer(level: keyof DeviceLog): (message: string) => void {
  return (message) => {
    console[level](`dmapool ${message}`);
  };
}

/** Linux's DEFAULT_RATELIMIT_INTERVAL, in milliseconds. */
const INTERVAL = 5000;
/** Linux's DEFAULT_RATELIMIT_BURST. */
const BURST = 10;

interface Window {
  readonly begin: number;
  /** Messages since then, printed or not. */
  count: number;
}

/**
 * Keeps one kind of message from flooding a log, by Linux's rule: of each kind at most 10 in 5 seconds; how many
 * were held back is said with the first message after that.
 */
export class RateLimiter {
  readonly #windows = new Map<string, Window>();
  readonly #now: () => number;

  /** @param now The clock, in milliseconds; to be replaced in tests. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** True if a message of this kind may be printed now. `suppressed` is told of what was held back before it. */
  allows(kind: string, suppressed: (count: number) => void): boolean {
    const now = this.#now();
    let window = this.#windows.get(kind);
    if (window === undefined || now - window.begin >= INTERVAL) {
      const missed = (window?.count ?? 0) - BURST;
      window = { begin: now, count: 0 };
      this.#windows.set(kind, window);
      if (missed > 0) suppressed(missed);
    }
    return ++window.count <= BURST;
  }
}
