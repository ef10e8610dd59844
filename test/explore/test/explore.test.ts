import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describe, explore, type ExploreOptions, replay } from '../explore.ts';
import { load, type LoadOptions } from '../load.ts';
import { deleteLine, moveBefore, type Mutation, replaceText, swapWithNext } from '../mutate.ts';

const DEPOT: LoadOptions = {
  scenario: 'test/explore/examples/tiny-depot-scenario.ts',
  instrument: ['test/explore/examples/'],
};
const WAITING: LoadOptions = { scenario: 'test/explore/examples/waiting-scenario.ts', instrument: [] };

test('the lock and the depot are correct', (t) => {
  const module = load(DEPOT);
  for (const options of [
    { preemptions: 2, merge: true },
    { preemptions: 1, kills: 1, merge: true },
  ]) {
    const two = explore(module.scenario('twoWorkers'), { ...options, merge: false });
    t.diagnostic(describe(`2 workers x 2, ${JSON.stringify(options)}`, two));
    assert.ok(two.complete, two.violation?.message);
    const three = explore(module.scenario('threeWorkers'), options);
    t.diagnostic(describe(`3 workers x 4, ${JSON.stringify(options)}`, three));
    assert.ok(three.complete, three.violation?.message);
  }
});

const lock = 'parking-lock.ts';
const depot = 'tiny-depot.ts';
const mutants: readonly (readonly [string, Mutation, ExploreOptions])[] = [
  ['unlock before the last store', swapWithNext(depot, 'const result = action();'), { preemptions: 1 }],
  ['missing notify', deleteLine(lock, 'PARKED) > 0'), { preemptions: 1 }],
  ['wake before the store', swapWithNext(lock, 'Atomics.store(this.#words, OWNER, FREE)'), { preemptions: 1 }],
  [
    'check, then act',
    replaceText(
      lock,
      'return Atomics.compareExchange(this.#words, OWNER, FREE, this.#me) === FREE;',
      `if (Atomics.load(this.#words, OWNER) !== FREE) return false;
       Atomics.store(this.#words, OWNER, this.#me);
       return true;`,
    ),
    { preemptions: 2 },
  ],
  ['parked counted too late', moveBefore(lock, 'Atomics.add(this.#words, PARKED', 'Atomics.sub('), { preemptions: 1 }],
  ['two stores swapped in pop', swapWithNext(depot, '= this.#worker;'), { preemptions: 0, kills: 1 }],
  ['two stores swapped in push', swapWithNext(depot, 'this.#words[COUNT]!++;'), { preemptions: 0, kills: 1 }],
  [
    'recovery does not seize the lock',
    replaceText(depot, 'if (!this.#lock.seize(dead)) ', ''),
    { preemptions: 0, kills: 1 },
  ],
  [
    'recovery gives stacked blocks twice',
    deleteLine(depot, 'if (this.#isStacked(block))'),
    { preemptions: 1, kills: 1 },
  ],
];

for (const [name, mutate, options] of mutants) {
  test(`caught: ${name}`, (t) => {
    // An else without its if does not parse: the mutant that deletes the line with the if deletes the else too.
    const module = load({
      ...DEPOT,
      mutate: (file, text) => mutate(file, text).replace('\n\n      else this', '\n      this'),
    });
    const scenario = module.scenario('twoWorkers');
    for (const merge of [false, true]) {
      const { violation, schedules } = explore(scenario, { ...options, merge, stepLimit: 1000 });
      assert.ok(violation !== null, 'not detected');
      t.diagnostic(`${violation.kind} after ${String(schedules)} schedules: ${violation.schedule}`);
      const again = replay(scenario, violation.schedule, 1000);
      assert.equal(again.violation?.kind, violation.kind);
      assert.equal(again.violation.message, violation.message);
      assert.deepEqual(replay(scenario, violation.schedule, 1000).trace, again.trace);
    }
  });
}

test('a replay lists the action of each worker', () => {
  const module = load({ ...DEPOT, mutate: swapWithNext(depot, '= this.#worker;') });
  const scenario = module.scenario('twoWorkers');
  const { violation } = explore(scenario, { preemptions: 0, kills: 1 });
  const { trace } = replay(scenario, violation!.schedule);
  const killed = trace.findIndex((line) => line.includes('KILLED'));
  assert.match(
    trace[killed]!,
    /^\d {2}KILLED at test\/explore\/examples\/tiny-depot\.ts:\d+ {2}this\.#owners\[block\]/,
  );
  assert.match(trace[killed - 1]!, /this\.#words\[COUNT\] = count - 1 {2}\[2\] 2 -> 1$/);
});

test('time-outs occur in order, when nothing else can happen, and take no real time', () => {
  const module = load(WAITING);
  const result = explore(module.scenario('timeOuts'), { preemptions: 3 });
  assert.ok(result.complete, result.violation?.message);
  const early = explore(module.scenario('timeOuts'), { preemptions: 3, timeOuts: 'any' });
  assert.match(early.violation!.schedule, /~0/);
  assert.equal(
    replay(module.scenario('timeOuts'), early.violation!.schedule).violation?.message,
    early.violation!.message,
  );
});

test('a wait is woken, or finds the cell changed', () => {
  const module = load(WAITING);
  const held = explore(module.scenario('handshake'), { preemptions: 3 });
  assert.ok(held.complete, held.violation?.message);
  const lost = explore(module.scenario('lostWakeUp'), { preemptions: 0 });
  assert.equal(lost.violation?.kind, 'deadlock');
  assert.match(lost.violation.message, /worker 0 waits for index 0, .*waiting-scenario\.ts:\d+ {2}Atomics\.wait/);
});

test('a schedule that never ends is a livelock', () => {
  const { violation } = explore(load(WAITING).scenario('endless'), { preemptions: 0, stepLimit: 100 });
  assert.equal(violation?.kind, 'livelock');
});

test('another worker’s write can come between a plain read and the write that depends on it', () => {
  const module = load(WAITING);
  assert.ok(explore(module.scenario('plainCounter'), { preemptions: 0 }).complete);
  assert.match(explore(module.scenario('plainCounter'), { preemptions: 1 }).violation!.message, /AssertionError/);
});

test('plain reads are yield points on request', () => {
  const free = explore(load(WAITING).scenario('tornRead'), { preemptions: 2 });
  assert.ok(free.complete, free.violation?.message);
  const read = explore(load({ ...WAITING, yieldAtReads: true }).scenario('tornRead'), { preemptions: 2 });
  assert.match(read.violation!.message, /torn/);
});

test('merging finds every outcome that the plain search finds, in fewer steps', () => {
  const [races, depots, depotsRead] = [{ ...WAITING, yieldAtReads: true }, DEPOT, { ...DEPOT, yieldAtReads: true }].map(
    load,
  );
  for (const [module, name, bounds] of [
    [races!, 'races', { preemptions: 2 }],
    [races!, 'races', { preemptions: 1, kills: 1 }],
    [depots!, 'threeWorkers', { preemptions: 1 }],
    [depots!, 'threeWorkers', { preemptions: 0, kills: 1 }],
    [depots!, 'twoWorkers', { preemptions: 1, kills: 1 }],
    [depotsRead!, 'twoWorkers', { preemptions: 2 }],
  ] as const) {
    const found = module.exports['outcomes'] as Set<string>;
    found.clear();
    const plain = explore(module.scenario(name), bounds);
    assert.ok(plain.complete, plain.violation?.message);
    const expected = [...found].sort();
    assert.ok(expected.length > 2, expected.join('; '));
    found.clear();
    const merged = explore(module.scenario(name), { ...bounds, merge: true });
    assert.ok(merged.complete);
    assert.deepEqual([...found].sort(), expected);
    assert.ok(merged.steps < plain.steps);
  }
});

test('a worker can be the reporter: it processes deaths between its operations and after them', () => {
  const module = load(WAITING);
  const found = module.exports['outcomes'] as Set<string>;
  found.clear();
  const result = explore(module.scenario('deaths'), { preemptions: 1, kills: 1 });
  assert.ok(result.complete, result.violation?.message);
  assert.deepEqual([...found].sort(), ['1 dead a b', 'a 1 dead b', 'a b', 'a b 1 dead']);
});

test('a search with a limit stops there and is not complete', () => {
  const result = explore(load(DEPOT).scenario('threeWorkers'), { preemptions: 2, maxSchedules: 100 });
  assert.equal(result.complete, false);
  assert.equal(result.violation, null);
  assert.equal(result.schedules, 100);
});
