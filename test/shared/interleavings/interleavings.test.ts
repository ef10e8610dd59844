/**
 * Every interleaving of three workers on one shared pool, within bounds, on the real code; and mutants, each of which
 * must be detected.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describe, explore, type ExploreOptions, replay } from '../../explore/explore.ts';
import { load, type LoadedModule } from '../../explore/load.ts';
import { allOf, type Mutation, replaceText } from '../../explore/mutate.ts';

// One try is enough: each further one repeats the same step.
const oneSpin = replaceText('lock.ts', 'const SPINS = 200;', 'const SPINS = 1;');

function loadPool(...mutations: readonly Mutation[]): LoadedModule {
  return load({
    scenario: 'test/shared/interleavings/scenarios.ts',
    instrument: ['src/shared/', 'src/pool/hot-path.ts', 'src/pool/free-list.ts'],
    // The promises of the slow path are not reached by these scenarios.
    uninterruptible: 'throw when reached',
    mutate: allOf(oneSpin, ...mutations),
  });
}

const BOUNDS: readonly ExploreOptions[] = [{ preemptions: 2 }, { preemptions: 1, kills: 1 }];

for (const name of ['threeWorkers', 'fresh', 'transfers', 'rivals', 'recalls', 'waiters']) {
  for (const options of BOUNDS) {
    const { preemptions, kills = 0 } = options;
    test(`${name}: 3 workers, up to 4 operations each, ${String(preemptions)} preemptions, ${String(kills)} kills`, (t) => {
      const result = explore(loadPool().scenario(name), { ...options, merge: true, maxMilliseconds: 1_800_000 });
      t.diagnostic(describe(name, result));
      assert.ok(result.complete, result.violation?.message);
    });
  }
}

const core = 'core.ts';
const depot = 'depot.ts';
const recovery = 'recovery.ts';
const transfers = 'transfers.ts';
/** A claim of a block without a check that no other worker has it. */
const claimUnchecked = replaceText(
  transfers,
  'if (Atomics.compareExchange(this.#words, index, word, this.#mark) !== word) return false;',
  'if (this.#words[index] !== word) return false;\n    Atomics.store(this.#words, index, this.#mark);',
);
const mutants: readonly (readonly [string, string, Mutation, ExploreOptions])[] = [
  [
    'unlock before the last store',
    'threeWorkers',
    replaceText(
      core,
      'const refusal = this.#fetch(this.#magazine.moved, grow);',
      'this.#lock.release();\n    const refusal = this.#fetch(this.#magazine.moved, grow);',
    ),
    { preemptions: 2 },
  ],
  [
    'stores swapped in an accept',
    'rivals',
    allOf(
      replaceText(transfers, '    this.#owners[index] = this.#me;\n', ''),
      replaceText(transfers, 'flightOf(id);\n    if', 'flightOf(id);\n    this.#owners[index] = this.#me;\n    if'),
    ),
    { preemptions: 1 },
  ],
  [
    'the free list is not rebuilt after the holder of the lock died',
    'threeWorkers',
    replaceText(
      core,
      'if (this.#lock.acquire(timeout)) this.#recovery.rebuildFreeList();',
      'this.#lock.acquire(timeout);',
    ),
    { preemptions: 1, kills: 1 },
  ],
  [
    'the magazine of a dead worker is not recovered',
    'threeWorkers',
    replaceText(recovery, 'if (this.#owners[index] === w) this.#giveFree(index, died);', ''),
    { preemptions: 0, kills: 1 },
  ],
  [
    'the lock is not taken over from the dead',
    'threeWorkers',
    replaceText('lock.ts', '!== ATTACHED) {', '=== -1) {'),
    { preemptions: 0, kills: 1 },
  ],
  [
    'an allocated word does not name its owner',
    'threeWorkers',
    replaceText(depot, 'last = this.#words[last]!;\n      this.#owners[last] = w;', 'last = this.#words[last]!;'),
    { preemptions: 0 },
  ],
  [
    'a new call is served before waiters',
    'waiters',
    replaceText(core, 'this.#tickets.first() === ticket', 'this.#tickets.first() >= 0'),
    { preemptions: 1 },
  ],
  [
    'a dead worker keeps its place in the queue',
    'waiters',
    replaceText(recovery, 'this.#queue.dropAllOf(worker);', ''),
    { preemptions: 0, kills: 1 },
  ],
  [
    'a block of a recovered giver is accepted',
    'transfers',
    replaceText(recovery, 'return !isFlight(word) ||', 'return true ||'),
    { preemptions: 1, kills: 1 },
  ],
  ['an accept does not check whether another worker just accepted', 'rivals', claimUnchecked, { preemptions: 1 }],
  [
    'a bulk accept that fails keeps the blocks it accepted before',
    'rivals',
    replaceText(transfers, 'for (let k = i - 1; k >= 0; k--)', 'for (let k = i - 1; k > 0; k--)'),
    { preemptions: 2 },
  ],
  [
    'a recall does not check whether another worker just accepted the block',
    'recalls',
    claimUnchecked,
    { preemptions: 1 },
  ],
  [
    'a recall does not wait for a bulk accept',
    'recalls',
    replaceText(core, 'this.#enter();\n    const recalled', 'const recalled'),
    { preemptions: 3 },
  ],
];

for (const [name, scenario, mutation, options] of mutants) {
  test(`caught: ${name}`, (t) => {
    const loaded = loadPool(mutation).scenario(scenario);
    const { violation, schedules } = explore(loaded, { ...options, stepLimit: 3000, maxMilliseconds: 60_000 });
    assert.ok(violation !== null, 'not detected');
    t.diagnostic(`${violation.kind} after ${String(schedules)} schedules: ${violation.schedule.slice(0, 200)}`);
    assert.equal(replay(loaded, violation.schedule, 3000).violation?.message, violation.message);
  });
}
