/**
 * Stops the DMA of a function and proves it, for {@link PciFunction.stopDma}.
 *
 *     reset in progress --> the driver's own stop --> bus mastering off, read back --> reset --> gone? --> isolation
 *           | done                (no proof)             | reads clear                 | done   | ones     | unmapped
 *           +--------------------------------------------+---> DmaStopped <------------+--------+----------+
 *
 * Each step has a time limit, and a failed step leads to the next one. All steps use raw configuration space, since the
 * driver's access may have ended.
 */
import { describeThrown } from '../errors.ts';
import type { RawConfigSpace } from './backend.ts';
import { PciError } from './error.ts';
import { NO_VENDOR, PCI_COMMAND, PCI_CONFIG } from './registers.ts';

/**
 * The evidence that a function can't reach memory. `bus-master-off`: bus mastering was cleared and read back as clear,
 * and no transfer was in flight any more. `reset`: a function reset completed. `gone`: configuration space reads all
 * ones, or the function's IOMMU mappings were removed.
 */
export type DmaStopReason = 'bus-master-off' | 'reset' | 'gone';

declare const PROOF: unique symbol;

/**
 * Proof that a function can't reach memory; only `PciFunction.stopDma` makes it. Functions that release memory which
 * the device may reach take it as a parameter, so that a call without the proof does not compile.
 */
export interface DmaStopped {
  /** The evidence. */
  readonly reason: DmaStopReason;
  /** False after bus mastering was enabled again: the proof is void. */
  readonly holds: boolean;
  /** Type-level brand, absent at run time: no other object type-checks as a proof. @internal */
  readonly [PROOF]: true;
}

/** Options of `PciFunction.stopDma`. */
export interface StopDmaOptions {
  /**
   * The driver's own way to stop the device, through its registers. It may fail or hang, and is no proof. If it
   * succeeds, no transfer is in flight when bus mastering is disabled.
   */
  readonly stop?: () => Promise<void>;
  /** Time limit of each step in milliseconds, 1 to 600,000; a reset gets at least 5 seconds. Default 5000. */
  readonly timeout?: number;
}

/** Makes a {@link DmaStopped} that is valid while `holds` returns true. Only `PciFunction` calls it. */
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

/** The function to stop. */
export interface StopTarget {
  readonly address: string;
  readonly config: RawConfigSpace;
  /** The reset in progress, or null. */
  readonly resetting: () => Promise<boolean> | null;
  /** Resets the function; false when no reset is available. */
  readonly reset: () => Promise<boolean>;
  /** Bus mastering was on at some time since the last proof: transfers may be in flight even if it is off now. */
  readonly dmaPossible: boolean;
  /** Completes all transfers in flight; undefined if a read of configuration space suffices. */
  readonly settle: (() => Promise<void>) | undefined;
  /** Isolates the function from memory without its cooperation; undefined if not permitted or not available. */
  readonly isolate: (() => Promise<void>) | undefined;
}

/** Default time limit of a step in milliseconds. */
export const STEP_TIME = 5000;
/** Minimum time limit of a reset in milliseconds: a function-level reset takes 100 ms, and readiness up to a second. */
const RESET_TIME = 5000;
/** Time limit in milliseconds for transfers in flight. A backend with slow disks has its own limit. */
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
  /** The driver's own stop succeeded: no transfer is in flight. */
  #driverStopped = false;

  constructor(target: StopTarget, timeout: number) {
    this.#target = target;
    this.#timeout = timeout;
  }

  async run(stop: (() => Promise<void>) | undefined): Promise<DmaStopReason> {
    const { resetting, reset, isolate, address } = this.#target;
    const resetTime = Math.max(this.#timeout, RESET_TIME);
    const running = resetting();
    if (running !== null && (await this.#isReset('the reset in progress', resetTime, () => running))) return 'reset';
    if (stop !== undefined) {
      this.#driverStopped = await this.#try("the driver's own stop", this.#timeout, async () => {
        await stop();
        return true;
      });
    }
    const reason = await this.#busMasterOff();
    if (reason !== null) return reason;
    if (resetting() === null && (await this.#isReset('a reset', resetTime, reset))) return 'reset';
    if (await this.#isGone()) return 'gone';
    if (isolate !== undefined) {
      const isolated = await this.#try('removing its memory mappings', SETTLE_TIME, async () => {
        await isolate();
        return true;
      });
      if (isolated) return 'gone';
    }
    const failures = this.#errors.map((error) => describeThrown(error)).join('; ');
    throw new PciError(
      'ERR_DMAPOOL_PCI_DMA_ACTIVE',
      address,
      `it may still do DMA and keeps its memory; every attempt to stop it failed (${failures})`,
      { cause: new AggregateError(this.#errors) },
    );
  }

  /** A reset disables bus mastering. If it reads as enabled afterwards, there was no reset. */
  async #isReset(step: string, timeout: number, reset: () => Promise<boolean>): Promise<boolean> {
    if (!(await this.#try(step, timeout, reset))) return false;
    const command = await this.#read(PCI_CONFIG.command);
    if (command === null || (command & PCI_COMMAND.busMaster) === 0) return command !== null;
    this.#errors.push(new Error(`bus mastering reads as enabled after ${step}`));
    return false;
  }

  async #busMasterOff(): Promise<DmaStopReason | null> {
    const { config, settle } = this.#target;
    let { dmaPossible } = this.#target;
    const command = await this.#read(PCI_CONFIG.command);
    if (command === null || command === ALL_ONES) return command === null ? null : this.#readAllOnes();
    if ((command & PCI_COMMAND.busMaster) !== 0) {
      dmaPossible = true;
      await this.#try('disabling bus mastering', this.#timeout, async () => {
        await config.write(PCI_CONFIG.command, 16, command & ~PCI_COMMAND.busMaster);
        return true;
      });
      // Read back even after a failed write, which may have arrived. The read completes after all posted writes of the
      // function to memory.
      const after = await this.#read(PCI_CONFIG.command);
      if (after === null || after === ALL_ONES) return after === null ? null : this.#readAllOnes();
      if ((after & PCI_COMMAND.busMaster) !== 0) {
        this.#errors.push(new Error('bus mastering reads as enabled after it was disabled'));
        return null;
      }
    }
    if (settle === undefined || this.#driverStopped || !dmaPossible) return 'bus-master-off';
    const settled = await this.#try('completing transfers in flight', SETTLE_TIME, async () => {
      await settle();
      return true;
    });
    return settled ? 'bus-master-off' : null;
  }

  /** Handles a command register of all ones. */
  async #readAllOnes(): Promise<DmaStopReason | null> {
    if (await this.#isGone()) return 'gone';
    this.#errors.push(new Error('its command register reads all ones, but it is present or a reset is in progress'));
    return null;
  }

  /** All ones are no proof during a reset: a function in reset reads all ones too. */
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

  /** Runs a step. Records an error and returns false when it fails or exceeds its time limit. */
  async #try(step: string, timeout: number, action: () => Promise<boolean>): Promise<boolean> {
    try {
      return await within(this.#target.address, timeout, step, action);
    } catch (error) {
      this.#errors.push(error);
      return false;
    }
  }
}

const ALL_ONES = 0xffff;

/**
 * Rejects when `action` exceeds `timeout` milliseconds; a later result is ignored.
 *
 * @throws {@link PciError} `ERR_DMAPOOL_PCI_TIMEOUT` @internal
 */
export async function within<T>(address: string, timeout: number, step: string, action: () => Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new PciError('ERR_DMAPOOL_PCI_TIMEOUT', address, `${step} took longer than ${String(timeout)} ms`));
    }, timeout);
  });
  try {
    return await Promise.race([action(), late]);
  } finally {
    clearTimeout(timer);
  }
}
