/**
 * Stops the DMA of a function and proves it, for {@link PciFunction.stopDma}.
 *
 *     a reset that runs --> the driver's own stop --> bus mastering off, read back --> reset --> gone? --> isolation
 *           | done                (no proof)             | reads clear                 | done   | ones     | unmapped
 *           +--------------------------------------------+---> DmaStopped <------------+--------+----------+
 *
 * Every step is bounded in time, and a step that fails leads to the next one. The configuration space is the raw one: the
 * driver may have lost its access.
 */
import { describeThrown } from '../errors.ts';
import type { RawConfigSpace } from './backend.ts';
import { PciError } from './error.ts';
import { NO_VENDOR, PCI_COMMAND, PCI_CONFIG } from './registers.ts';

/**
 * How a function was proven unable to reach memory. `bus-master-off`: bus mastering was cleared in configuration space and
 * read back as clear, and nothing was under way any more; `reset`: a function reset completed; `gone`: configuration space
 * reads all ones, or the function's IOMMU mappings were removed.
 */
export type DmaStopReason = 'bus-master-off' | 'reset' | 'gone';

declare const PROOF: unique symbol;

/**
 * Proof that a function can not reach memory any more, made by `PciFunction.stopDma` alone. Functions that release memory
 * which the device may reach take it as a parameter, so that code that forgets the proof does not compile.
 */
export interface DmaStopped {
  /** How it was proven. */
  readonly reason: DmaStopReason;
  /** False once bus mastering was switched on again: the proof is void. */
  readonly holds: boolean;
  /** Not there at run time: it keeps other objects from being taken for a proof. @internal */
  readonly [PROOF]: true;
}

/** How to stop a function's DMA. */
export interface StopDmaOptions {
  /**
   * The driver's own way to stop the device, through its registers. It may fail or hang: it is no proof, but where it
   * succeeds nothing is under way when bus mastering is switched off.
   */
  readonly stop?: () => Promise<void>;
  /** Milliseconds that each step may take, 1 to 10 minutes; a reset may take 5 seconds at least. Default 5000. */
  readonly timeout?: number;
}

/** Makes a {@link DmaStopped}, which holds while `holds` says so. For `PciFunction` alone. */
export function proofOf(reason: DmaStopReason, holds: () => boolean): DmaStopped {
  return new Proof(reason, holds) as unknown as DmaStopped;
}

class Proof implements Omit<DmaStopped, typeof PROOF> {
  readonly reason: DmaStopReason;
  readonly #holds: () => boolean;

  constructor(reason: DmaStopReason, holds: () => boolean) {
    this.reason = reason;
    this.#holds = holds;
  }

  get holds(): boolean {
    return this.#holds();
  }
}

/** What is needed of the function. */
export interface StopTarget {
  readonly address: string;
  readonly config: RawConfigSpace;
  /** The reset that runs, or null. */
  readonly resetting: () => Promise<boolean> | null;
  /** Resets the function; false when it offers no reset. */
  readonly reset: () => Promise<boolean>;
  /** Bus mastering was on since the last proof, so that transfers may be under way also where it is off now. */
  readonly atWork: boolean;
  /** Resolves when no transfer is under way; undefined where the read of configuration space is enough. */
  readonly settle: (() => Promise<void>) | undefined;
  /** Takes all memory out of the function's reach by other means than the function; only where that may be done. */
  readonly isolate: (() => Promise<void>) | undefined;
}

/** Milliseconds that a step may take by default. */
export const STEP_TIME = 5000;
/** The least milliseconds that a reset gets: a function-level reset takes some 100 ms, and up to a second more to be ready. */
const RESET_TIME = 5000;
/** Milliseconds for what is under way in the backend; a backend with slow disks bounds that itself. */
const SETTLE_TIME = 120_000;

/** @throws {@link PciError} `ERR_DMAPOOL_PCI_DMA_ACTIVE` */
export async function proveStopped(
  target: StopTarget,
  stop: (() => Promise<void>) | undefined,
  timeout: number,
): Promise<DmaStopReason> {
  return new Attempt(target, timeout).run(stop);
}

class Attempt {
  readonly #target: StopTarget;
  readonly #timeout: number;
  readonly #errors: unknown[] = [];
  /** The driver's own stop succeeded: nothing is under way. */
  #quiet = false;

  constructor(target: StopTarget, timeout: number) {
    this.#target = target;
    this.#timeout = timeout;
  }

  async run(stop: (() => Promise<void>) | undefined): Promise<DmaStopReason> {
    const { resetting, reset, isolate, address } = this.#target;
    const resetTime = Math.max(this.#timeout, RESET_TIME);
    const running = resetting();
    if (running !== null && (await this.#try('the reset that runs', resetTime, () => running))) return 'reset';
    if (stop !== undefined) {
      this.#quiet = await this.#try("the driver's own stop", this.#timeout, async () => {
        await stop();
        return true;
      });
    }
    const reason = await this.#busMasterOff();
    if (reason !== null) return reason;
    if (resetting() === null && (await this.#try('a reset', resetTime, reset))) return 'reset';
    if (await this.#isGone()) return 'gone';
    if (isolate !== undefined) {
      const isolated = await this.#try('taking its memory from it', SETTLE_TIME, async () => {
        await isolate();
        return true;
      });
      if (isolated) return 'gone';
    }
    const failures = this.#errors.map((error) => describeThrown(error)).join('; ');
    throw new PciError(
      'ERR_DMAPOOL_PCI_DMA_ACTIVE',
      address,
      `it may still do DMA, and keeps the memory that it can reach: nothing stopped it (${failures})`,
      { cause: new AggregateError(this.#errors) },
    );
  }

  async #busMasterOff(): Promise<DmaStopReason | null> {
    const { config, settle } = this.#target;
    let { atWork } = this.#target;
    const command = await this.#read(PCI_CONFIG.command);
    if (command === null || command === ALL_ONES) return command === null ? null : this.#silent();
    if ((command & PCI_COMMAND.busMaster) !== 0) {
      atWork = true;
      await this.#try('switching bus mastering off', this.#timeout, async () => {
        await config.write(PCI_CONFIG.command, 16, command & ~PCI_COMMAND.busMaster);
        return true;
      });
      // Also after a write that failed: it may have arrived. The read pushes the function's posted writes to memory ahead of
      // its completion.
      const after = await this.#read(PCI_CONFIG.command);
      if (after === null || after === ALL_ONES) return after === null ? null : this.#silent();
      if ((after & PCI_COMMAND.busMaster) !== 0) {
        this.#errors.push(new Error('bus mastering reads on after it was switched off'));
        return null;
      }
    }
    if (settle === undefined || this.#quiet || !atWork) return 'bus-master-off';
    const settled = await this.#try('finishing what was under way', SETTLE_TIME, async () => {
      await settle();
      return true;
    });
    return settled ? 'bus-master-off' : null;
  }

  /** The command register reads all ones. */
  async #silent(): Promise<DmaStopReason | null> {
    if (await this.#isGone()) return 'gone';
    this.#errors.push(new Error('its command register reads all ones, though it is there or a reset runs'));
    return null;
  }

  /** A function in reset reads all ones too, so that they are no proof while a reset runs. */
  async #isGone(): Promise<boolean> {
    return this.#target.resetting() === null && (await this.#read(PCI_CONFIG.vendorId)) === NO_VENDOR;
  }

  async #read(offset: number): Promise<number | null> {
    let value: number | null = null;
    await this.#try('reading its configuration space', this.#timeout, async () => {
      value = await this.#target.config.read(offset, 16);
      return true;
    });
    return value;
  }

  /** False when the step fails or takes too long; why is kept. */
  async #try(step: string, timeout: number, action: () => Promise<boolean>): Promise<boolean> {
    try {
      return await within(timeout, step, action);
    } catch (error) {
      this.#errors.push(error);
      return false;
    }
  }
}

const ALL_ONES = 0xffff;

/** Rejects when `action` takes longer than `timeout` milliseconds; what becomes of it then is of no interest. @internal */
export async function within<T>(timeout: number, step: string, action: () => Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`${step} took longer than ${String(timeout)} ms`));
    }, timeout);
  });
  try {
    return await Promise.race([action(), late]);
  } finally {
    clearTimeout(timer);
  }
}
