/** Worker of target `shared`: makes random calls, starts workers, and exits at a random time. */
import { setImmediate } from 'node:timers/promises';
import { workerData } from 'node:worker_threads';
import { Random } from '../support/random.ts';
import { Actor, isRefusal } from './shared-actor.ts';
import { attach, shareOn } from './shared-api.ts';
import { type Arena, breakArena, endLife, OPERATIONS, silentDevice, STOP, type WorkerOrders } from './shared-arena.ts';
import { startWorker } from './shared-workers.ts';

const { arena, exits, generations, life, seed } = workerData as WorkerOrders;
const random = new Random(seed);

function makeOne(actors: readonly Actor[]): void {
  // A handle made by this thread records it as the parent of the worker, which then ends with it.
  const places = arena.places.map((place, at) => ({ ...place, handle: shareOn(actors[at]!.pool) }));
  const below: Arena = { ...arena, places };
  startWorker(below, { maker: life, seed: random.next(), generations: generations - 1, exits: random.chance(0.3) });
}

async function run(): Promise<void> {
  const actors = arena.places.map(
    ({ handle, ground }) => new Actor(attach(handle, silentDevice()), life, ground, random),
  );
  let calls = 0;
  const last = exits ? random.below(2000) : Infinity;
  if (generations > 0 && random.chance(0.6)) makeOne(actors);
  while (Atomics.load(arena.control, STOP) === 0) {
    for (let n = 0; n < 40; n++) {
      try {
        await random.pick(actors).act();
      } catch (error) {
        if (!isRefusal(error)) throw error;
      }
      if (calls++ === last) process.exit(0);
    }
    Atomics.add(arena.control, OPERATIONS, 40);
    if (generations > 0 && random.chance(0.01)) makeOne(actors);
    await setImmediate();
  }
  for (const actor of actors) {
    // Some exit with blocks still allocated.
    if (random.chance(0.7)) actor.freeAll();
    if (random.chance(0.8)) actor.pool.destroy();
  }
  process.exit(0);
}

run().catch((error: unknown) => {
  breakArena(arena, error instanceof Error ? `${error.message}\n${error.stack ?? ''}` : String(error));
  endLife(arena, life);
  process.exit(1);
});
