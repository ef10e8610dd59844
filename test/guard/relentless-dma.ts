/**
 * Worst-case DMA of a device: it may access every address that it was given at any time, until the command with the address
 * completes, the device is reset, or the host has proof that its DMA stopped.
 *
 *     device model: learn, release, reset --> RelentlessDma <-- GuardedMemory: free
 *     backend: proven, resumed, cutOff ------->  |
 *                                                v
 *                                a Violation if a live device may access memory that it does not own
 */
import type { DmaTarget } from 'dmapool';
import type { GuardedMemory } from './guarded-memory.ts';

export type DmaAccess = 'read' | 'write' | 'both';

/** An address that the device was given. */
export interface Grant {
  /** The command or register that contained it. */
  readonly command: string;
  readonly dma: number;
  readonly length: number;
  /** How the device accesses it. */
  readonly access: DmaAccess;
  /** The device may overwrite the content at any time until the command completes, as the buffer of a read. */
  readonly scribble: boolean;
}

/** A possible access of a device to memory that it does not own. */
export interface Violation {
  readonly command: string;
  readonly access: DmaAccess;
  /** First address of the access. */
  readonly address: number;
  readonly length: number;
  /** Description. */
  readonly what: string;
  /** Stack of the free; stack of the grant if the device never owned the memory. */
  readonly stack: string;
}

export class GuardError extends Error {
  readonly violations: readonly Violation[];

  constructor(violations: readonly Violation[]) {
    const lines = violations.slice(0, 3).map(({ command, access, address, length, what, stack }) => {
      return `${command} (${access}, ${String(length)} bytes at 0x${address.toString(16)}): ${what}\n${stack}`;
    });
    super(`${String(violations.length)} violations: ${lines.join('\n')}`);
    this.violations = violations;
  }
}

/** Maximum number of recorded violations. */
const MOST = 20;

export class RelentlessDma {
  /** The device that must own the accessed memory; null for any. */
  target: DmaTarget | null = null;
  readonly violations: Violation[] = [];
  readonly #memory: GuardedMemory;
  /**
   * Each grant with null if the device owns its memory, else with the stack of the free, or of the grant, that happened while
   * the device was stopped.
   */
  readonly #grants = new Map<Grant, Error | null>();
  /** Grants with a value that is not null. */
  #dead = 0;
  /** Grants that were not accessed in this round. */
  #turn: Iterator<Grant, unknown> = this.#grants.keys();
  /** The host has proof that the device does no DMA. */
  #isStopped = true;
  /** The device can access no memory any more. Final. */
  #isCutOff = false;
  #strikes = 0;

  constructor(memory: GuardedMemory) {
    this.#memory = memory;
    memory.watchers.add((dma, size, what) => {
      this.#onGiveBack(dma, size, what);
    });
  }

  /** True while the device may access memory at any time. */
  get isLive(): boolean {
    return !this.#isStopped && !this.#isCutOff;
  }

  /** True after {@link RelentlessDma.cutOff}. */
  get isCutOff(): boolean {
    return this.#isCutOff;
  }

  /** Number of addresses that the device has. */
  get grants(): number {
    return this.#grants.size;
  }

  /** Number of unsolicited accesses. */
  get strikes(): number {
    return this.#strikes;
  }

  /** Gives the device an address. @param scribble It may write there at once; only for memory with no needed content. */
  learn(command: string, dma: number, length: number, access: DmaAccess, scribble = false): Grant {
    const grant = { command, dma, length, access, scribble };
    const wrong = this.#memory.whyNot(dma, length, this.target);
    if (wrong === null) this.#grants.set(grant, null);
    // A stopped device can't use the address until it resumes.
    else if (!this.isLive) this.#markDead(grant, new Error(`given here: ${wrong}`));
    // Reported now, so it is not recorded.
    else this.#report(grant, `it was given ${wrong}`, new Error('given here'));
    return grant;
  }

  /** Removes an address: the command with it is complete. */
  release(grant: Grant): void {
    this.#forget(grant);
  }

  /** Removes all addresses: the device was reset. */
  reset(): void {
    this.#forgetAll();
  }

  /** Marks the device as stopped: the host has proof that it does no DMA. */
  proven(): void {
    this.#isStopped = true;
  }

  /** Marks the device as live: bus mastering is on, and it may access its addresses again. */
  resumed(): void {
    this.#isStopped = false;
    this.strike();
  }

  /** Ends all DMA: the device is off the bus, or all mappings were removed. */
  cutOff(): void {
    this.#isCutOff = true;
    this.#forgetAll();
  }

  /** Accesses all addresses with memory that the device does not own, and the next of the others in turn. */
  strike(): void {
    if (!this.isLive) return;
    this.#strikes++;
    if (this.#dead > 0) this.#strikeDead();
    let next = this.#turn.next();
    if (next.done === true) next = (this.#turn = this.#grants.keys()).next();
    const grant = next.value as Grant | undefined;
    if (grant?.scribble === true) this.#memory.scribble(grant.dma, grant.length, this.#strikes & 0xff);
  }

  #strikeDead(): void {
    for (const [grant, freed] of this.#grants) {
      if (freed === null) continue;
      this.#forget(grant);
      this.#report(grant, 'the device resumed with memory that it does not own', freed);
    }
  }

  #forget(grant: Grant): void {
    if ((this.#grants.get(grant) ?? null) !== null) this.#dead--;
    this.#grants.delete(grant);
  }

  #forgetAll(): void {
    this.#grants.clear();
    this.#dead = 0;
  }

  /** @param freed Stack of the free, or of the grant. */
  #markDead(grant: Grant, freed: Error): void {
    this.#grants.set(grant, freed);
    this.#dead++;
  }

  #onGiveBack(dma: number, size: number, what: string): void {
    let freed: Error | null = null;
    for (const [grant, before] of this.#grants) {
      if (grant.dma >= dma + size || grant.dma + grant.length <= dma || before !== null) continue;
      freed ??= new Error('freed here');
      if (!this.isLive) {
        this.#markDead(grant, freed);
        continue;
      }
      this.#forget(grant);
      this.#report(grant, `${what} is freed while the device may access it`, freed);
    }
  }

  #report({ command, access, dma, length }: Grant, what: string, at: Error): void {
    if (this.violations.length >= MOST) return;
    this.violations.push({ command, access, address: dma, length, what, stack: at.stack ?? '' });
  }

  /** @throws {@link GuardError} if there is a violation. */
  check(): void {
    if (this.violations.length > 0) throw new GuardError(this.violations);
  }
}
