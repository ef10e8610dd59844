/**
 * Every public call returns a result or throws a typed error, whatever its arguments. The calls are found by
 * reflection, so that a new export is tested from its first day. An error thrown by a getter or proxy in an argument
 * becomes the `cause` of a typed error. The exceptions, here and in the documents: `free`, `alloc` and the index forms
 * may pass on errors of code in an argument, since a guard would slow down every call; and callbacks, which are the
 * caller's code.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Device, DmaPool, HeapMemory, PoolGeometry } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { NvmeController } from 'dmapool/drivers/nvme';
import { PciFunction } from 'dmapool/pci';
import { decodeTrace } from 'dmapool/trace';
import { WasmMemory, type WasmMemoryObject } from 'dmapool/wasm';
import { FakeNvme } from '../drivers/nvme/fake-nvme.ts';
import { Random } from '../support/random.ts';
import { entryPoints } from '../package/packed.ts';
import { FakeBackend, FakeInterrupts } from '../pci/fake-backend.ts';
import { RecordingLog } from '../support/log.ts';
import {
  type Callable,
  exportedCalls,
  instanceCalls,
  isErrorClass,
  isTypedError,
  outcomeOf,
  type Pending,
  WILD,
} from './wild.ts';

const RANDOM_CALLS = 40;
const MOST_ARGUMENTS = 3;

type ErrorClass = new (...args: never[]) => unknown;
type Maker = () => unknown;

/** Promises that were not settled at once; each must settle when the object that it waits for has ended. */
const pending: Pending[] = [];

const log = new RecordingLog();

/** Errors of drivers, which have their own base classes. */
const classes: ErrorClass[] = [];
const modules = new Map<string, Readonly<Record<string, unknown>>>();
for (const { specifier } of entryPoints) {
  const module = (await import(specifier)) as Readonly<Record<string, unknown>>;
  modules.set(specifier, module);
  classes.push(...(Object.values(module).filter(isErrorClass) as ErrorClass[]));
}

function describeArgument(value: unknown): string {
  try {
    return typeof value === 'string' ? value : Object.prototype.toString.call(value);
  } catch {
    return `revoked ${typeof value}`;
  }
}

/** Makes calls with each wild value in each position, and with wild and plausible values in all positions. */
async function tryAll(
  callables: readonly Callable[],
  plausible: readonly Maker[],
  skip: (callable: Callable, args: readonly unknown[]) => boolean = () => false,
): Promise<void> {
  const failures = new Map<string, string>();
  const random = new Random(12_345);
  const all = [...WILD, ...plausible];
  const pick = (makers: readonly Maker[]): unknown => makers[random.below(makers.length)]!();
  for (const callable of callables) {
    const lists: unknown[][] = [[]];
    for (let place = 0; place < MOST_ARGUMENTS; place++) {
      for (const make of WILD) {
        const others = Array.from({ length: MOST_ARGUMENTS }, () => pick([() => undefined, ...plausible]));
        others[place] = make();
        lists.push(others);
      }
    }
    for (let i = 0; i < RANDOM_CALLS; i++) {
      lists.push(Array.from({ length: random.below(MOST_ARGUMENTS + 1) }, () => pick(all)));
    }
    for (const args of lists) {
      if (skip(callable, args)) continue;
      const outcome = await outcomeOf(callable, args, (error) => isTypedError(error, classes), pending);
      if (outcome === null || failures.has(callable.name)) continue;
      const { untyped } = outcome;
      const trace =
        untyped instanceof Error
          ? (untyped.stack ?? untyped.message).split('\n').slice(0, 3).join(' ')
          : 'not an Error';
      failures.set(callable.name, `${callable.name}(${args.map(describeArgument).join(', ')}): ${trace}`);
    }
  }
  assert.equal(failures.size, 0, `untyped errors:\n${[...failures.values()].join('\n')}`);
}

const device = (): Device => new Device({ name: 'wild', log, memory: new HeapMemory({ limit: 2 ** 22 }) });
let pools = 0;
const pool = (debug = false): DmaPool =>
  DmaPool.create(`wild ${String(pools++)}`, device(), { size: 64, maxBlocks: 16, debug });

/** Valid arguments, which let the wild ones pass the first checks. */
const PLAUSIBLE: readonly Maker[] = [
  () => 0,
  () => 1,
  () => 8,
  () => 64,
  () => 4096,
  () => 'name',
  () => 'kernel',
  () => new Int32Array(4),
  () => new Float64Array(4),
  () => new Uint32Array(4),
  () => new DataView(new ArrayBuffer(16)),
  () => ({ size: 64 }),
  () => ({ timeout: 1 }),
  device,
  () => pool(),
  () => pool().alloc(),
  () => device().allocCoherent(64),
  () => sharePool(pool()).handle,
];

function wasmMemory(): WasmMemoryObject {
  const { WebAssembly } = globalThis as unknown as {
    WebAssembly: { Memory: new (limits: object) => WasmMemoryObject };
  };
  return new WebAssembly.Memory({ initial: 1, maximum: 1 });
}

const asyncTrace = await decodeTrace([new TextEncoder().encode('#dma_pool-trace v1\n')], { name: 'empty' });

test('exports of the entry points throw only typed errors', { timeout: 60_000 }, async (t) => {
  // A machine without options has defaults for all of them, and starts.
  const isNothing = (value: unknown): boolean => {
    if (value === undefined || typeof value !== 'object' || value === null) return value === undefined;
    try {
      return Object.keys(value).every((name) => name in Object.prototype);
    } catch {
      return false;
    }
  };
  for (const [specifier, module] of modules) {
    // The conformance checks are excluded: their bounds and names are constants of the test.
    if (specifier === 'dmapool/arguments') continue;
    const plausible = specifier === 'dmapool/linux' ? [] : [...PLAUSIBLE, () => asyncTrace];
    await t.test(specifier, () =>
      tryAll(exportedCalls(specifier, module), plausible, ({ name }, args) => {
        return name === 'dmapool/qemu: QemuMachine.start' && isNothing(args[0]);
      }),
    );
  }
});

test('devices, pools, blocks and memory throw only typed errors', { timeout: 60_000 }, async (t) => {
  const makers: Readonly<Record<string, () => object>> = {
    device,
    pool,
    'debug pool': () => pool(true),
    'shared pool': () => {
      const made = pool();
      sharePool(made);
      return made;
    },
    block: () => pool().alloc(),
    'debug block': () => pool(true).alloc(),
    'heap memory': () => new HeapMemory({ limit: 2 ** 22 }),
    'wasm memory': () => new WasmMemory({ memory: wasmMemory(), offset: 4096, size: 8192 }),
    'coherent memory': () => device().allocCoherent(64)!,
    geometry: () => new PoolGeometry({ size: 64 }),
  };
  for (const [name, make] of Object.entries(makers)) {
    await t.test(name, async () => {
      // A new object for each method: some end it.
      for (const { name: method } of instanceCalls(name, make())) {
        const instance = make();
        await tryAll(
          instanceCalls(name, instance).filter((callable) => callable.name === method),
          PLAUSIBLE,
        );
        if (instance instanceof DmaPool) instance.destroy();
      }
    });
  }
});

test('a PCI function and its parts throw only typed errors', { timeout: 60_000 }, async (t) => {
  const open = async (): Promise<PciFunction> => {
    const backend = new FakeBackend();
    backend.interrupts = new FakeInterrupts('msi', 4);
    return PciFunction.open(backend, { log });
  };
  const makers: Readonly<Record<string, (pci: PciFunction) => object | Promise<object>>> = {
    function: (pci) => pci,
    config: (pci) => pci.config,
    'memory BAR': (pci) => pci.bar(0),
    'port BAR': (pci) => pci.bar(3),
    interrupts: (pci) => pci.interrupts(),
  };
  for (const [name, make] of Object.entries(makers)) {
    await t.test(name, async () => {
      const pci = await open();
      await tryAll(instanceCalls(name, await make(pci)), PLAUSIBLE);
      await pci.close();
    });
  }
});

test('an NVMe controller and a namespace throw only typed errors', { timeout: 60_000 }, async () => {
  const fake = new FakeNvme();
  const pci = await PciFunction.open(fake, { log });
  fake.target = pci.device;
  const nvme = await NvmeController.open(pci);
  const disk = await nvme.namespace(1);
  const plausible = [...PLAUSIBLE, () => new Uint8Array(512), () => ({ opcode: 2 })];
  const ends = (name: string): boolean => /close|Symbol|transfer$/.test(name);
  await tryAll(
    instanceCalls('namespace', disk).filter(({ name }) => !ends(name)),
    plausible,
  );
  await tryAll(
    instanceCalls('controller', nvme).filter(({ name }) => !ends(name) && !/admin|io$/.test(name)),
    plausible,
  );
  await nvme.close();
  await pci.close();
});

test('every pending promise settled with its object', async () => {
  const open = new Set(pending.keys());
  for (const [i, { promise }] of pending.entries()) void promise.catch(() => undefined).then(() => open.delete(i));
  for (let i = 0; i < 200 && open.size > 0; i++) await sleep(10);
  assert.deepEqual(new Set([...open].map((i) => pending[i]!.name)), new Set());
});
