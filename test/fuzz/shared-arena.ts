/** What the threads of one case share: pools, who lives, and what was broken. */
import { Device, type DeviceLog } from 'dmapool';
import type { Ground } from './shared-actor.ts';
import type { Handle } from './shared-api.ts';

export interface Place {
  readonly handle: Handle;
  readonly ground: Ground;
}

export interface Arena {
  readonly places: readonly Place[];
  /** [STOP], [NEXT_LIFE], [BROKEN], [OPERATIONS] */
  readonly control: Int32Array<SharedArrayBuffer>;
  /** The life that made each life. */
  readonly makers: Int32Array<SharedArrayBuffer>;
  /** What was broken, when [BROKEN] is the length of it. */
  readonly text: Uint8Array<SharedArrayBuffer>;
}

/** What a worker of a case is given. */
export interface WorkerOrders {
  readonly arena: Arena;
  readonly life: number;
  readonly seed: number;
  /** How many generations of workers it may make. */
  readonly generations: number;
  /** Whether it ends by process.exit() at a random moment. */
  readonly exits: boolean;
}

export const STOP = 0;
export const NEXT_LIFE = 1;
export const BROKEN = 2;
export const OPERATIONS = 3;
export const MOST_LIVES = 256;

export function newLife(arena: Arena, maker: number): number {
  const life = Atomics.add(arena.control, NEXT_LIFE, 1) + 1;
  if (life >= MOST_LIVES) throw new Error('a case with more lives than its table has');
  arena.makers[life] = maker;
  return life;
}

/** The life ended, and with it those that it made. */
export function endLife(arena: Arena, life: number): void {
  for (const { ground } of arena.places) Atomics.store(ground.lives, life, 0);
  for (let other = life + 1; other < MOST_LIVES; other++) if (arena.makers[other] === life) endLife(arena, other);
}

/** Keeps the first message. */
export function breakArena({ control, text }: Arena, message: string): void {
  const bytes = new TextEncoder().encode(message).subarray(0, text.length);
  if (Atomics.compareExchange(control, BROKEN, 0, -1) !== 0) return;
  text.set(bytes);
  Atomics.store(control, BROKEN, bytes.length);
}

export function brokenText({ control, text }: Arena): string | null {
  const length = Atomics.load(control, BROKEN);
  return length > 0 ? new TextDecoder().decode(text.slice(0, length)) : null;
}

const SILENT: DeviceLog = { error: () => undefined, warn: () => undefined, info: () => undefined };

export function silentDevice(): Device {
  return new Device({ name: 'shared', log: SILENT });
}
