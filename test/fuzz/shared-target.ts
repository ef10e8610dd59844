/** Fuzz target `shared`: several attachments in one thread, deterministic and fast; and real workers that are terminated. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type DmaPoolOptions, Device, DmaError, HeapMemory } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { Random } from '../support/random.ts';
import { countOperations } from './operations.ts';
import { Actor, type Ground, isRefusal, Violation } from './shared-actor.ts';
import { attach, attachBadly, createShared, type Handle, reportExit, type Shared, watchMany } from './shared-api.ts';
import {
  type Arena,
  brokenText,
  MOST_LIVES,
  newLife,
  OPERATIONS,
  type Place,
  silentDevice,
  STOP,
} from './shared-arena.ts';
import { startWorker } from './shared-workers.ts';
import type { FuzzTarget } from './target.ts';

/** One case in this number has real workers. */
const WITH_WORKERS = 12;
/** Milliseconds for workers to exit, and for a pool to recover from their exits. */
const PATIENCE = 10_000;

/** A pool with its memory and tables. */
interface Setup {
  readonly pool: Shared;
  readonly handle: Handle;
  readonly memory: HeapMemory;
  readonly ground: Ground;
}

function setUp(random: Random, deadly: boolean): Setup {
  const memory = new HeapMemory({ limit: 4 * 1024 * 1024 });
  const log = { error: () => undefined, warn: () => undefined, info: () => undefined };
  const device = new Device({ name: 'shared', memory, log });
  const maxBlocks = 8 + random.below(random.pick([30, 120, 400]));
  const mode = random.pick<Partial<DmaPoolOptions>>([
    {},
    {},
    {},
    { initOnFree: true },
    { initOnAlloc: true },
    { debug: true },
    { debug: { sites: false } },
  ]);
  const size = random.pick([16, 64, 100, 700, 5000]);
  const magazine = random.chance(0.5) ? 2 + random.below(16) : undefined;
  const { pool, handle } = createShared('shared', device, { size, maxBlocks, ...mode }, magazine);
  const fresh = mode.debug !== undefined ? 0xa9 : mode.initOnAlloc === true || mode.initOnFree === true ? 0 : -1;
  const ground: Ground = {
    claims: new Int32Array(
      new SharedArrayBuffer(4 * Math.ceil(maxBlocks / pool.geometry.blocksPerPage) * pool.geometry.blocksPerPage),
    ),
    lives: new Int32Array(new SharedArrayBuffer(4 * MOST_LIVES)),
    mail: new BigInt64Array(new SharedArrayBuffer(8 * 8)),
    deadly,
    fresh,
  };
  return { pool, handle, memory, ground };
}

/** Checks a pool without other holders: each block can be allocated exactly once, and destroy frees all memory. */
async function checkEnd({ pool, memory, ground }: Setup, after = ''): Promise<void> {
  await patiently(() => {
    sharePool(pool).reclaim();
  });
  const all: number[] = [];
  for (let index = pool.tryAllocIndex(); index >= 0; index = pool.tryAllocIndex()) {
    if (all.includes(index)) throw new Violation(`at the end: block ${String(index)} was allocated twice`);
    if (ground.fresh >= 0 && pool.bytesOf(index).some((byte) => byte !== ground.fresh)) {
      throw new Violation(`at the end: block ${String(index)} has bytes of its last holder`);
    }
    all.push(index);
  }
  const { corrupted } = pool.statistics();
  if (corrupted > 0) throw new Violation(`at the end: ${String(corrupted)} blocks are reported as corrupted`);
  if (all.length !== pool.maxBlocks) {
    throw new Violation(
      `at the end: ${String(all.length)} of ${String(pool.maxBlocks)} blocks can be allocated${after}`,
    );
  }
  pool.freeIndexBulk(Int32Array.from(all));
  pool.destroy();
  await patiently(() => {
    if (memory.bytesInUse > 0) throw new Violation(`at the end: ${String(memory.bytesInUse)} bytes were not freed`);
  }, 500);
}

/** Retries a call for a limited time: a dead worker's lock is recovered, and its exit reported, on the event loop. */
async function patiently(call: () => void, patience: number = PATIENCE): Promise<void> {
  const deadline = performance.now() + patience;
  for (;;) {
    try {
      call();
      return;
    } catch (error) {
      if (performance.now() > deadline) throw error;
      await sleep(2);
    }
  }
}

// ---- one thread

/** Runs several holders in one thread, deterministic in the seed. */
async function runOneThread(random: Random): Promise<void> {
  const setup = setUp(random, false);
  const { handle, ground, pool } = setup;
  let lives = 1;
  const actors = [new Actor(pool, 1, ground, random)];
  const gone: Actor[] = [];
  const steps = 50 + random.below(400);
  let wrong = '';
  for (let n = 0; n < steps; n++) {
    const dice = random.below(200);
    if (dice < 3 && actors.length < 5 && lives < MOST_LIVES - 1) {
      actors.push(new Actor(attach(handle, silentDevice()), ++lives, ground, random));
    } else if (dice === 3 && actors.length > 1) {
      gone.push(leave(actors, ground, random));
    } else if (dice === 4) {
      reclaim(pool, gone, ground);
    } else if (dice === 5) {
      refuses(() => {
        attachBadly(handle, random.below(6));
      });
    } else if (dice === 6 && random.chance(0.1)) {
      const thread = random.chance(0.5) ? sharePool(pool).thread : 1 + random.below(100_000);
      wrong += `, after reportWorkerExit(${String(thread)})`;
      wrongly(() => {
        reportExit(pool, thread);
      });
    } else {
      try {
        await random.pick(actors).act();
      } catch (error) {
        if (!isRefusal(error)) throw error;
      }
    }
    countOperations(1);
    checkActive(pool, actors, gone, ground, wrong);
  }
  for (const actor of actors.slice(1)) {
    if (random.chance(0.5)) actor.freeAll();
    actor.pool.destroy();
    Atomics.store(ground.lives, actor.life, 0);
  }
  const [creator] = actors;
  creator!.recall();
  creator!.freeAll();
  await checkEnd(setup);
}

/** Destroys the pool of a random attached holder, with blocks still allocated. */
function leave(actors: Actor[], { lives }: Ground, random: Random): Actor {
  const at = 1 + random.below(actors.length - 1);
  const [actor] = actors.splice(at, 1);
  actor!.pool.destroy();
  Atomics.store(lives, actor!.life, 0);
  return actor!;
}

function reclaim(pool: Shared, gone: Actor[], { claims }: Ground): void {
  const lost = new Set(gone.map(({ life }) => life));
  let expected = 0;
  for (const claim of claims) if (lost.has(Math.abs(claim))) expected++;
  const count = sharePool(pool).reclaim();
  if (count !== expected) throw new Violation(`reclaim freed ${String(count)} blocks, not ${String(expected)}`);
  for (const [index, claim] of claims.entries()) if (lost.has(Math.abs(claim))) claims[index] = 0;
  gone.length = 0;
}

/** Checks `active`: blocks that are held, in transit, or lost with holders that left. */
function checkActive(
  pool: Shared,
  actors: readonly Actor[],
  gone: readonly Actor[],
  { claims }: Ground,
  wrong: string,
): void {
  let out = 0;
  for (const claim of claims) if (claim !== 0) out++;
  const { active } = pool.statistics();
  if (active !== out) {
    throw new Violation(
      `${String(active)} active, but ${String(out)} claimed, with ${String(actors.length)} holders and ${String(gone.length)} that left${wrong}`,
    );
  }
}

function refuses(call: () => void): void {
  try {
    call();
  } catch (error) {
    if (error instanceof DmaError) return;
    throw new Violation(`an invalid attach threw ${String(error)}, not a DmaError`);
  }
  throw new Violation('an invalid attach was accepted');
}

/** Runs an invalid call, which may throw a DmaError or have no effect. */
function wrongly(call: () => void): void {
  try {
    call();
  } catch (error) {
    if (!(error instanceof DmaError)) throw error;
  }
}

// ---- many threads

async function runWorkers(random: Random): Promise<void> {
  const deadly = true;
  const setups = Array.from({ length: 1 + random.below(2) }, () => setUp(random, deadly));
  const places: Place[] = setups.map(({ handle, ground }) => ({ handle, ground }));
  const arena: Arena = {
    places,
    control: new Int32Array(new SharedArrayBuffer(16)),
    makers: new Int32Array(new SharedArrayBuffer(4 * MOST_LIVES)),
    text: new Uint8Array(new SharedArrayBuffer(8192)),
  };
  const life = newLife(arena, 0);
  const actors = setups.map(({ pool, ground }) => new Actor(pool, life, ground, random));
  const wrong: string[] = [];
  if (random.chance(0.1)) {
    wrong.push('300 threads watched');
    watchMany(setups[0]!.pool, 300);
  }
  const start = (): ReturnType<typeof startWorker> =>
    startWorker(arena, { maker: life, seed: random.next(), generations: random.below(3), exits: random.chance(0.2) });
  const running = Array.from({ length: 2 + random.below(2) }, start);
  // Usually wait until all run; sometimes a worker is terminated during its start.
  const up = performance.now() + (random.chance(0.8) ? 3000 : 0);
  while (performance.now() < up && Atomics.load(arena.control, OPERATIONS) < 40 * running.length) await sleep(2);
  const until = performance.now() + 60 + random.below(300);
  while (performance.now() < until && brokenText(arena) === null) {
    await sleep(random.below(8));
    for (let n = random.below(30); n > 0; n--) {
      try {
        await random.pick(actors).act();
      } catch (error) {
        if (!isRefusal(error)) throw error;
      }
    }
    if (random.chance(0.1)) void random.pick(running).worker.terminate();
    if (random.chance(0.05) && running.length < 8) running.push(start());
    if (random.chance(0.01)) {
      wrong.push('reportWorkerExit() of a thread that may live');
      wrongly(() => {
        reportExit(random.pick(setups).pool, random.pick(running).worker.threadId);
      });
    }
  }
  Atomics.store(arena.control, STOP, 1);
  // Terminate some at the same time, as when a program ends.
  for (const { worker } of running) if (random.chance(0.3)) void worker.terminate();
  const ended = await Promise.race([
    Promise.all(running.map((each) => each.ended)).then(() => true),
    sleep(PATIENCE, false, { ref: true }),
  ]);
  if (!ended) throw new Violation('a worker does not exit');
  countOperations(Atomics.load(arena.control, OPERATIONS));
  const broken = brokenText(arena);
  const after = wrong.length === 0 ? '' : ` (after: ${wrong.join(', ')})`;
  if (broken !== null) throw new Violation(`${broken}${after}`);
  for (const [at, actor] of actors.entries()) {
    await patiently(() => {
      actor.recall();
      actor.freeAll();
    });
    await checkEnd(setups[at]!, after);
  }
}

export const sharedTarget: FuzzTarget = {
  name: 'shared',
  async runCase(seed) {
    const random = new Random(seed);
    if (random.below(WITH_WORKERS) === 0) await runWorkers(random);
    else await runOneThread(random);
  },
};
