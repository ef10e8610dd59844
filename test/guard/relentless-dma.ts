/**
 * The DMA of a device that never lets go: it remembers every address that it was ever given, and may access it at any moment,
 * until the command that gave it is complete, or the device was reset, or it is proven stopped.
 *
 *     model: learn, release, reset --> RelentlessDma <-- GuardedMemory: given back
 *     backend: proven, resumed, cutOff -->  |  memory of a live device that is not the device's: a Violation
 */
import type { DmaTarget } from 'dmapool';
import type { GuardedMemory } from './guarded-memory.ts';

export type DmaAccess = 'read' | 'write' | 'both';

/** An address that the device was given. */
export interface Grant {
  /** What gave it: a command, a register. */
  readonly command: string;
  readonly dma: number;
  readonly length: number;
  /** What the device does there. */
  readonly access: DmaAccess;
  /** What is there may be overwritten until the command is complete, such as the buffer of a read. */
  readonly scribble: boolean;
}

/** The device reaches memory that is not its own. */
export interface Violation {
  readonly command: string;
  readonly access: DmaAccess;
  /** First address of what it reaches. */
  readonly address: number;
  readonly length: number;
  /** What is wrong. */
  readonly what: string;
  /** Where the memory was given back; where the address was given, when it never was the device's. */
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

/** Violations that are kept. */
const MOST = 20;

export class RelentlessDma {
  /** The device that must own what is accessed; null: not looked at. */
  target: DmaTarget | null = null;
  readonly violations: Violation[] = [];
  readonly #memory: GuardedMemory;
  /** With where its memory was given back, or the address given, while the device was stopped; null: it is the device's. */
  readonly #grants = new Map<Grant, Error | null>();
  /** How many of these are not null. */
  #dead = 0;
  /** Those that were not accessed in this round. */
  #turn: Iterator<Grant, unknown> = this.#grants.keys();
  /** The host knows that it does no DMA. */
  #isStopped = true;
  /** It can reach no memory any more, whatever happens. */
  #isCutOff = false;
  #strikes = 0;

  constructor(memory: GuardedMemory) {
    this.#memory = memory;
    memory.watchers.add((dma, size, what) => {
      this.#onGiveBack(dma, size, what);
    });
  }

  /** It may access memory at any moment. */
  get isLive(): boolean {
    return !this.#isStopped && !this.#isCutOff;
  }

  /** It reaches no memory any more. */
  get isCutOff(): boolean {
    return this.#isCutOff;
  }

  /** Addresses that it remembers. */
  get grants(): number {
    return this.#grants.size;
  }

  /** Accesses that it tried by itself. */
  get strikes(): number {
    return this.#strikes;
  }

  /** It is given an address. @param scribble It may write there at once; only for memory whose content nobody needs. */
  learn(command: string, dma: number, length: number, access: DmaAccess, scribble = false): Grant {
    const grant = { command, dma, length, access, scribble };
    const wrong = this.#memory.whyNot(dma, length, this.target);
    if (wrong === null) this.#grants.set(grant, null);
    // A device that is stopped does no harm with it until it goes on.
    else if (!this.isLive) this.#markDead(grant, new Error(`given here: ${wrong}`));
    // It is not remembered: what is wrong was said.
    else this.#report(grant, `it was given ${wrong}`, new Error('given here'));
    return grant;
  }

  /** The command that gave the address is complete: the device does not use it any more. */
  release(grant: Grant): void {
    this.#forget(grant);
  }

  /** The device was reset: it forgets all. */
  reset(): void {
    this.#forgetAll();
  }

  /** The host has seen that the device does no DMA. */
  proven(): void {
    this.#isStopped = true;
  }

  /** Bus mastering is on: what it remembers it may access again. */
  resumed(): void {
    this.#isStopped = false;
    this.strike();
  }

  /** It is off the bus, or all mappings are removed. */
  cutOff(): void {
    this.#isCutOff = true;
    this.#forgetAll();
  }

  /** It accesses what it remembers: all of it where something is wrong, else one address after the other. */
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
      this.#report(grant, 'its memory is not the device’s, which was stopped and now goes on', freed);
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

  /** @param freed Where its memory ceased to be the device's. */
  #markDead(grant: Grant, freed: Error): void {
    this.#grants.set(grant, freed);
    this.#dead++;
  }

  #onGiveBack(dma: number, size: number, what: string): void {
    let freed: Error | null = null;
    for (const [grant, before] of this.#grants) {
      if (grant.dma >= dma + size || grant.dma + grant.length <= dma || before !== null) continue;
      freed ??= new Error('given back here');
      if (!this.isLive) {
        this.#markDead(grant, freed);
        continue;
      }
      this.#forget(grant);
      this.#report(grant, `${what} is given back under it`, freed);
    }
  }

  #report({ command, access, dma, length }: Grant, what: string, at: Error): void {
    if (this.violations.length >= MOST) return;
    this.violations.push({ command, access, address: dma, length, what, stack: at.stack ?? '' });
  }

  /** @throws {@link GuardError} if the device ever reached what is not its own. */
  check(): void {
    if (this.violations.length > 0) throw new GuardError(this.violations);
  }
}
