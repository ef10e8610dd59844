/** Receives a device's messages. One message may have several lines, such as a hex dump or a list. */
export interface DeviceLog {
  /** Logs `message` as an error: corruption, a busy destroy, a leak. */
  error(message: string): void;
  /** Logs `message` as a probable error. */
  warn(message: string): void;
  /** Logs `message`, which reports no problem. */
  info(message: string): void;
}

/** The default log: the console, with the prefix `dmapool`. */
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
  /** Messages since `begin`, printed or suppressed. */
  count: number;
}

/**
 * Limits each kind of message to 10 in 5 seconds, as Linux does. The first message of the next interval reports the number
 * of suppressed ones.
 */
export class RateLimiter {
  readonly #windows = new Map<string, Window>();
  readonly #now: () => number;

  /** @param now The clock, in milliseconds; tests replace it. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** True if a message of this kind may be printed now. Calls `suppressed` if messages before it were suppressed. */
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
