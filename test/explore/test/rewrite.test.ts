import assert from 'node:assert/strict';
import { test } from 'node:test';
import { shapes } from '../examples/shapes.ts';
import { explore } from '../explore.ts';
import { load, type LoadOptions } from '../load.ts';
import { allOf, deleteLine, replaceText } from '../mutate.ts';

const SHAPES: LoadOptions = {
  scenario: 'test/explore/examples/shapes-scenario.ts',
  instrument: ['test/explore/examples/shapes.ts'],
};

for (const yieldAtReads of [false, true]) {
  test(`instrumented code does what it did before${yieldAtReads ? ', with reads as yield points' : ''}`, () => {
    const module = load({ ...SHAPES, yieldAtReads });
    for (const merge of [false, true]) {
      const result = explore(module.scenario('scenario'), { preemptions: 0, merge });
      assert.ok(result.complete, String(result.violation?.message));
      assert.ok(result.steps > 30);
    }
    const outcomes = module.exports['outcomes'] as unknown[][];
    assert.deepEqual(outcomes, [shapes(), shapes()]);
  });
}

/** Adds a function to shapes.ts. */
function withCode(code: string): LoadOptions {
  const place = 'function describeAll';
  return { ...SHAPES, mutate: replaceText('shapes.ts', place, `${code}\n${place}`) };
}

const refused: readonly (readonly [string, string, RegExp])[] = [
  [
    'a constructor',
    'class C { constructor(a: Int32Array) { a[0] = 1; } }',
    /shapes\.ts:\d+: a yield point \(write\) is in a constructor/,
  ],
  [
    'a getter',
    'class C { a = new Int32Array(1); get x(): number { return Atomics.load(this.a, 0); } }',
    /Atomics\.load\) is in an accessor/,
  ],
  [
    'a call in a setter',
    'class C { set x(a: Int32Array) { cleanUp(a); } }',
    /a call of a function that yields is in an accessor/,
  ],
  ['an async function', 'async function f(a: Int32Array) { a.fill(1); }', /\(fill\) is in an async function/],
  ['a generator', 'function* g(a: Int32Array) { yield 1; a[0] = 1; }', /is in a generator/],
  ['a default', 'function f(a: Int32Array, b = Atomics.load(a, 0)) { return b; }', /is in a parameter's default/],
  ['top-level code', 'new Int32Array(1)[0] = 5;', /is outside any function/],
  [
    'a callback',
    'function f(a: Int32Array) { [1].map((x) => Atomics.add(a, 0, x)); }',
    /handed to code that is not instrumented/,
  ],
  [
    'a callback by name',
    'function f(a: Int32Array) { const g = (x: number) => { a[0] = x; }; [1].forEach(g); }',
    /handed to code that is not/,
  ],
  [
    'a callback passed on',
    'function f(g: (x: number) => void) { [1].forEach(g); } function h(a: Int32Array) { f((x) => { a[0] = x; }); }',
    /handed to code/,
  ],
  ['a chain', 'function f(s: ArraySink | null) { return s?.add(1).toString(); }', /inside an optional chain/],
  ['waitAsync', 'function f(a: Int32Array) { return Atomics.waitAsync(a, 0, 0); }', /waitAsync is not simulated/],
  ['destructuring', 'function f(a: Int32Array) { [a[0], a[1]] = [1, 2]; }', /by destructuring/],
  ['logical assignment', 'function f(a: Int32Array) { a[0] ||= 2; }', /assigns with \|\|=/],
];

for (const [name, code, message] of refused) {
  test(`refused: ${name}`, () => {
    assert.throws(() => load(withCode(code)), { name: 'InstrumentError', message });
  });
}

test('an unsupported place can be allowed until a worker reaches it', () => {
  const code = 'class C { constructor(a: Int32Array) { a[0] = 1; } }';
  const options: LoadOptions = { ...withCode(code), uninterruptible: 'throw when reached' };
  assert.ok(explore(load(options).scenario('scenario'), { preemptions: 0 }).complete);
  const call = replaceText('shapes.ts', 'const big =', 'new C(cells); const big =');
  const reached = load({ ...options, mutate: (file, text) => call(file, options.mutate!(file, text)) });
  const { violation } = explore(reached.scenario('scenario'), { preemptions: 0 });
  assert.match(violation!.message, /SimulationError: .*shapes\.ts:\d+: a\[0\] = 1: a worker can't be interrupted here/);
});

test('a callback that yields can be called in setup, but not by a worker', () => {
  const code = 'function addAll(a: Int32Array) { [1, 2].forEach((x) => Atomics.add(a, 0, x)); return a[0]; }';
  const options: LoadOptions = { ...withCode(code), uninterruptible: 'throw when reached' };
  const setup = replaceText(
    'shapes-scenario.ts',
    'setup: () => null',
    'setup: () => (addAll(new Int32Array(1)) === 3 ? null : assert())',
  );
  const imported = replaceText('shapes-scenario.ts', 'import { shapes }', 'import { shapes, addAll }');
  const exported = replaceText('shapes.ts', 'function addAll', 'export function addAll');
  const call = replaceText('shapes.ts', 'const big =', 'addAll(cells); const big =');
  const inSetup = allOf(options.mutate!, setup, imported, exported);
  assert.ok(explore(load({ ...options, mutate: inSetup }).scenario('scenario'), { preemptions: 0 }).complete);
  const inWorker = load({ ...options, mutate: allOf(options.mutate!, call) });
  assert.match(
    explore(inWorker.scenario('scenario'), { preemptions: 0 }).violation!.message,
    /can't be interrupted here/,
  );
});

test('a call that is not known to yield is detected when it does', () => {
  const code = `
    const ACTIONS: Action[] = [];
    function callAll(): number { return ACTIONS[0]!(3); }`;
  const call = replaceText(
    'shapes.ts',
    'const big =',
    'ACTIONS.splice(0, 1, ...[(v: number) => (cells[0] = v)]); callAll(); const big =',
  );
  const base = withCode(code);
  const module = load({ ...base, mutate: (file, text) => call(file, base.mutate!(file, text)) });
  const { violation } = explore(module.scenario('scenario'), { preemptions: 0 });
  assert.match(violation!.message, /calls a function that yields, unforeseen/);
});

test('reads that bypass the machine exclude merging', () => {
  const module = load(
    withCode('function f(a: Int32Array) { for (const x of a) if (x > 0) return [...a]; return []; }'),
  );
  assert.ok(explore(module.scenario('scenario'), { preemptions: 0 }).complete);
  assert.throws(() => explore(module.scenario('scenario'), { preemptions: 0, merge: true }), /shapes\.ts:\d+, /);
});

test('code that is not instrumented cannot call code that is', () => {
  assert.throws(
    () =>
      load({
        ...SHAPES,
        scenario: 'test/explore/examples/tiny-depot-scenario.ts',
        instrument: ['test/explore/examples/parking-lock.ts'],
      }),
    {
      name: 'InstrumentError',
      message: /tiny-depot\.ts:\d+: a call of a function that yields is in a file that is not instrumented/,
    },
  );
});

test('invalid options are reported', () => {
  assert.throws(() => load({ ...SHAPES, instrument: ['src/index.ts'] }), /imports no src\/index\.ts/);
  assert.throws(() => load({ ...SHAPES, mutate: (_, text) => text }), /mutation changed no file/);
  assert.throws(() => load({ ...SHAPES, mutate: deleteLine('shapes.ts', 'no such line') }), /is in 0 lines/);
  assert.throws(() => load(SHAPES).scenario('missing'), /exports no scenario 'missing'/);
});
