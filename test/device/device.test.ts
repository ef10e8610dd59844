import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Device, dmaBitMask, DmaReleaseError, DmaPool, HeapMemory, type CoherentMemory } from 'dmapool';
import { countsOf } from '../support/pools.ts';
import { RateLimiter } from '../../src/device/log.ts';
import { throwsCode } from '../support/errors.ts';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';

test('masks are the highest address, exact to 53 bits', () => {
  assert.equal(dmaBitMask(1), 1);
  assert.equal(dmaBitMask(24), 0xff_ffff);
  assert.equal(dmaBitMask(32), 0xffff_ffff);
  assert.equal(dmaBitMask(52), 2 ** 52 - 1);
  assert.equal(dmaBitMask(53), Number.MAX_SAFE_INTEGER);
  assert.equal(dmaBitMask(64), Number.MAX_SAFE_INTEGER);
  for (const bits of [0, 65, 1.5, NaN, '32', 32n]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => dmaBitMask(bits as number));
  }
});

test('a device has a name, a path and a parent', () => {
  const bridge = new Device({ name: '0000:00:1c.0', path: '/sys/devices/pci0000:00/0000:00:1c.0' });
  const device = new Device({ name: '0000:01:00.0', parent: bridge });
  assert.equal(device.path, '/sys/devices/pci0000:00/0000:00:1c.0/0000:01:00.0');
  assert.equal(device.parent, bridge);
  assert.equal(new Device({ name: 'x' }).path, '/sys/devices/x');
  assert.equal(new Device({ name: 'x' }).parent, null);
});

test('wrong options are refused', () => {
  const make = (options: object) => () => new Device({ name: 'x', ...options });
  for (const name of ['', 'a/b', 'a\0b', 5, undefined, null])
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', make({ name }));
  for (const dmaMask of [0, -1, 1.5, NaN, 2 ** 53, '1', 1n])
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', make({ dmaMask }));
  for (const numaNode of [-2, 1.5, NaN, '0', 5000]) throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', make({ numaNode }));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', make({ parent: {} }));
});

test('managed resources are released in reverse order, each even if another throws', () => {
  const device = new Device({ name: 'x' });
  const order: string[] = [];
  device.addAction(() => order.push('first'));
  device.addAction(() => {
    order.push('second');
    throw new Error('second failed');
  });
  const forget = device.addAction(() => order.push('forgotten'));
  device.manage({ [Symbol.dispose]: () => order.push('third') });
  device.addAction(() => {
    order.push('fourth');
    device.addAction(() => order.push('added while releasing'));
  });
  assert.equal(forget(), true);
  assert.equal(forget(), false);
  assert.throws(
    () => {
      device.detach();
    },
    (error: unknown) => {
      assert.ok(error instanceof DmaReleaseError);
      assert.equal(error.code, 'ERR_DMAPOOL_RELEASE');
      assert.deepEqual(
        error.errors.map((each) => (each as Error).message),
        ['second failed'],
      );
      return true;
    },
  );
  assert.deepEqual(order, ['fourth', 'added while releasing', 'third', 'second', 'first']);
  device.detach();
  assert.equal(order.length, 5);
});

test('managed pools are destroyed in order, and a pool destroyed by hand is not destroyed again', () => {
  const device = new Device({ name: 'x', memory: new HeapMemory() });
  const order: string[] = [];
  device.addAction(() => order.push(`action: ${device.attributeNames().join()}`));
  const early = DmaPool.createManaged('early', device, { size: 64 });
  device.addAction(() => order.push(`between: ${device.readAttribute('pools')?.split('\n')[1] ?? ''}`));
  const late = DmaPool.createManaged('late', device, { size: 64 });
  const gone = DmaPool.createManaged('gone', device, { size: 64 });
  early.free(early.alloc());
  late.free(late.alloc());
  gone.destroy();
  device[Symbol.dispose]();
  assert.deepEqual(order, ['between: early               0   64   64  1', 'action: ']);
  throwsCode('ERR_DMAPOOL_DESTROYED', () => early.alloc());
});

test('an attribute is computed at each read, and its name is unique', () => {
  const device = new Device({ name: 'x' });
  let reads = 0;
  device.addAttribute('vendor', () => {
    reads++;
    return '0x8086\n';
  });
  assert.equal(device.readAttribute('vendor'), '0x8086\n');
  assert.equal(reads, 1);
  assert.deepEqual(device.attributeNames(), ['vendor']);
  throwsCode('ERR_DMAPOOL_EXISTS', () => {
    device.addAttribute('vendor', () => '');
  });
  for (const name of ['', 'a/b', 7]) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      device.addAttribute(name as string, () => '');
    });
  }
  assert.equal(device.removeAttribute('vendor'), true);
  assert.equal(device.removeAttribute('vendor'), false);
  assert.equal(device.readAttribute('vendor'), undefined);
});

test('a rate limit admits ten messages in five seconds for each kind', () => {
  let now = 0;
  const limiter = new RateLimiter(() => now);
  const held: number[] = [];
  const allows = (kind: string): boolean => limiter.allows(kind, (count) => held.push(count));
  const first = Array.from({ length: 15 }, () => allows('a'));
  assert.equal(first.filter(Boolean).length, 10);
  assert.equal(allows('b'), true);
  now = 4999;
  assert.equal(allows('a'), false);
  assert.deepEqual(held, []);
  now = 5000;
  assert.equal(allows('a'), true);
  assert.deepEqual(held, [6]);
  now = 10_000;
  assert.equal(allows('a'), true);
  assert.deepEqual(held, [6], 'no message was suppressed');
});

test('messages go to the device’s log, and a log that throws has no other effect', (t) => {
  const log = new RecordingLog();
  const device = new Device({ name: '0000:00:02.0', log });
  for (let i = 0; i < 12; i++) device.report('error', 'kind', `message ${String(i)}`);
  assert.equal(log.lines.length, 10);
  assert.equal(log.lines[0], 'error 0000:00:02.0: message 0');
  const printed = t.mock.method(console, 'error', () => undefined);
  const broken = new Device({
    name: 'b',
    log: {
      error: () => {
        throw new Error('disk full');
      },
      warn: () => undefined,
      info: () => undefined,
    },
  });
  broken.report('error', 'kind', 'hello');
  assert.match(String(printed.mock.calls[0]?.arguments[0]), /b: the log threw Error: disk full at: b: hello/);
});

test('coherent memory is zeroed, aligned and within the mask', () => {
  const device = new Device({ name: 'x', memory: new HeapMemory({ limit: 2 ** 20 }), dmaMask: dmaBitMask(32) });
  const memory = device.allocCoherent(147456)!;
  assert.equal(memory.dma % 262144, 0);
  assert.ok(memory.dma + 147456 - 1 <= 0xffff_ffff);
  assert.ok(new Uint8Array(memory.buffer, memory.byteOffset, memory.size).every((byte) => byte === 0));
  assert.equal(device.allocCoherent(2 ** 21), null);
  device.freeCoherent(memory);
  throwsCode('ERR_DMAPOOL_NOT_MAPPED', () => {
    device.freeCoherent(memory);
  });
  for (const size of [0, -1, 1.5, 2 ** 31, NaN, '1']) {
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => device.allocCoherent(size as number));
  }
});

test('a device frees its own memory only', () => {
  const memory = new HeapMemory();
  const disk = new Device({ name: 'disk', memory });
  const nic = new Device({ name: 'nic', memory });
  const its = disk.allocCoherent(4096)!;
  assert.match(
    throwsCode('ERR_DMAPOOL_NOT_MAPPED', () => {
      nic.freeCoherent(its);
    }).message,
    /^nic: this memory is not mapped/,
  );
  assert.equal(memory.bytesInUse, 4096);
  disk.freeCoherent(its);
  assert.equal(memory.bytesInUse, 0);
});

test('memory above the mask is returned, and the error names both', () => {
  const lying = {
    name: 'lying',
    pageSize: 4096,
    allocCoherent: (): CoherentMemory => ({ dma: 2 ** 32, size: 4096, buffer: new ArrayBuffer(4096), byteOffset: 0 }),
    freed: 0,
    freeCoherent(): void {
      this.freed++;
    },
  };
  const device = new Device({ name: 'nic', memory: lying, dmaMask: dmaBitMask(32) });
  const error = throwsCode('ERR_DMAPOOL_MASK', () => device.allocCoherent(4096));
  assert.match(error.message, /nic: memory at 0x100000000-0x100000fff is above the DMA mask 0xffffffff/);
  assert.equal(lying.freed, 1);
  const pool = DmaPool.create('p', device, { size: 64 });
  throwsCode('ERR_DMAPOOL_MASK', () => pool.tryAlloc());
  assert.deepEqual(countsOf(pool), { active: 0, blocks: 0, pages: 0 });
  device.setDmaMask(dmaBitMask(33));
  assert.equal(pool.alloc().dma, 2 ** 32);
});

test('a source that violates its alignment contract is an error', () => {
  const crooked = {
    name: 'crooked',
    pageSize: 4096,
    allocCoherent: (): CoherentMemory => ({ dma: 4096 + 64, size: 4096, buffer: new ArrayBuffer(4096), byteOffset: 0 }),
    freeCoherent: (): void => undefined,
  };
  const device = new Device({ name: 'x', memory: crooked });
  assert.match(
    throwsCode('ERR_DMAPOOL_SOURCE', () => device.allocCoherent(100)).message,
    /crooked gave address 0x1040/,
  );
});

test('the NUMA node is passed to the source', () => {
  const memory = new FaultyMemory();
  const device = new Device({ name: 'x', memory, numaNode: 1 });
  DmaPool.create('own', device, { size: 64 }).alloc();
  DmaPool.create('other', device, { size: 64, node: 0 }).alloc();
  assert.deepEqual(
    memory.requests.map(({ node, size }) => [node, size]),
    [
      [1, 4096],
      [0, 4096],
    ],
  );
});

test('reclaim calls each registered function once', () => {
  const device = new Device({ name: 'x' });
  let asked = 0;
  device.onReclaim(() => {
    asked++;
    return 2;
  });
  device.onReclaim(() => 3)();
  assert.equal(device.reclaim(), 2);
  assert.equal(device.reclaim(), 0);
  assert.equal(asked, 1);
});

test('dropped devices with pools are collected, also while their memory source lives', async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const memory = new HeapMemory();
  const refs = Array.from({ length: 200 }, () => {
    const device = new Device({ name: 'x', memory });
    DmaPool.create('rx', device, { size: 64 });
    return new WeakRef(device);
  });
  // A WeakRef holds its target until the end of the task that created or read it.
  await new Promise((resolve) => setTimeout(resolve, 1));
  collect();
  assert.equal(refs.filter((ref) => ref.deref() !== undefined).length, 0);
});

test('managed pools with overlapping lives leave nothing behind', () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const device = new Device({ name: 'x', memory: new HeapMemory() });
  let before = DmaPool.createManaged('ring', device, { size: 64 });
  const replace = (): void => {
    const next = DmaPool.createManaged('ring', device, { size: 64 });
    before.destroy();
    before = next;
  };
  const heapUsed = (): number => {
    collect();
    return process.memoryUsage().heapUsed;
  };
  for (let i = 0; i < 1000; i++) replace();
  const used = heapUsed();
  for (let i = 0; i < 20_000; i++) replace();
  const grown = heapUsed() - used;
  assert.ok(grown < 20_000 * 32, `${String(grown)} bytes more for 20,000 destroyed pools`);
  device.detach();
  throwsCode('ERR_DMAPOOL_DESTROYED', () => before.alloc());
});

test('a release action can remove older and newer actions', () => {
  const device = new Device({ name: 'x' });
  const order: string[] = [];
  const forgets = ['a', 'b', 'c', 'd'].map((name) => device.addAction(() => order.push(name)));
  assert.equal(forgets[1]!(), true);
  device.addAction(() => {
    order.push('e');
    assert.equal(forgets[3]!(), true);
    assert.equal(forgets[1]!(), false);
  });
  device.detach();
  assert.deepEqual(order, ['e', 'c', 'a']);
  assert.equal(forgets[0]!(), false);
});

test('memory taken from the source directly does not lower the mark of live memory', () => {
  const memory = new HeapMemory();
  const device = new Device({ name: 'x', memory, dmaMask: dmaBitMask(40) });
  const live = device.allocCoherent(4096)!;
  device.freeCoherent(memory.allocCoherent({ device, size: 4096, node: -1 })!);
  throwsCode('ERR_DMAPOOL_MASK', () => {
    device.setDmaMask(0xffff);
  });
  device.freeCoherent(live);
  device.setDmaMask(0xffff);
});

test('a reclaim function that is removed during reclaim() does not run', () => {
  const device = new Device({ name: 'x' });
  let asked = 0;
  device.onReclaim(() => {
    forget();
    return 1;
  });
  const forget = device.onReclaim(() => ++asked);
  assert.equal(device.reclaim(), 1);
  assert.equal(asked, 0);
});
