/** State that the threads of a case share: pools, lives and the first violation. */
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
  /** The life that started each life. */
  readonly makers: Int32Array<SharedArrayBuffer>;
  /** Message of the first violation; its length is control[BROKEN]. */
  readonly text: Uint8Array<SharedArrayBuffer>;
}

/** The `workerData` of a worker. */
export interface WorkerOrders {
  readonly arena: Arena;
  readonly life: number;
  readonly seed: number;
  /** Generations of workers that it may start. */
  readonly generations: number;
  /** It exits by process.exit() at a random time. */
  readonly exits: boolean;
}

export const STOP = 0;
export const NEXT_LIFE = 1;
export const BROKEN = 2;
export const OPERATIONS = 3;
export const MOST_LIVES = 256;

export function newLife(arena: Arena, maker: number): number {
  const life = Atomics.add(arena.control, NEXT_LIFE, 1) + 1;
  if (life >= MOST_LIVES) throw new Error('the case has more lives than the table');
  arena.makers[life] = maker;
  return life;
}

/** Ends a life and all lives that it started. */
export function endLife(arena: Arena, life: number): void {
  for (const { ground } of arena.places) Atomics.store(ground.lives, life, 0);
  for (let other = life + 1; other < MOST_LIVES; other++) if (arena.makers[other] === life) endLife(arena, other);
}

/** Records a violation, unless there is one already. */
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
