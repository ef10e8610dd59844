/** Unknown options are refused by name: with `{ aling: 64 }` accepted, the pool's blocks would not be aligned. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Device, DmaArgumentError, DmaPool, HeapMemory, PoolGeometry } from 'dmapool';
import { attachPool, sharePool } from 'dmapool/shared';
import { readOptions } from 'dmapool/arguments';
import { E1000 } from 'dmapool/drivers/e1000';
import { EhciController } from 'dmapool/drivers/ehci';
import { NvmeController } from 'dmapool/drivers/nvme';
import { bindToVfio, HugetlbMemory, listPciDevices, VfioDevice } from 'dmapool/linux';
import { WasmMemory } from 'dmapool/wasm';
import { PciFunction } from 'dmapool/pci';
import { QemuMachine } from 'dmapool/qemu';
import { decodeTrace, readPools, replayTrace } from 'dmapool/trace';
import { end, start } from '../drivers/nvme/fake-fixture.ts';
import { FakeBackend } from '../pci/fake-backend.ts';
import { throwsCode } from '../support/errors.ts';
import { revoked, throwing } from './wild.ts';

const device = (): Device => new Device({ name: 'eth0' });
const pool = (): DmaPool => DmaPool.create('rx', device(), { size: 64, maxBlocks: 8 });
const createPool = (options: unknown): DmaPool => DmaPool.create('rx', device(), options as { size: number });

/** Options with one additional name, with the type of the call's parameter. */
function misspelt(options: object): never {
  return { ...options, misspelt: 1 } as never;
}

async function refuses(call: () => unknown, pattern: RegExp): Promise<void> {
  await assert.rejects(
    async () => {
      await call();
    },
    (error) => {
      assert.ok(error instanceof DmaArgumentError, String(error));
      assert.match(error.message, pattern);
      return true;
    },
  );
}

test('the message has the name, the nearest option, and all accepted ones', () => {
  const error = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => createPool({ size: 64, aling: 64 }));
  assert.equal(
    error.message,
    'unknown option "aling"; did you mean align? accepted: size, align, boundary, maxBlocks, node, debug, initOnAlloc, initOnFree',
  );
  assert.equal((error as DmaArgumentError).argument, 'aling');
});

test('the suggested name begins with the same letters, in any case', () => {
  const guess = (name: string): string | undefined => {
    const error = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => createPool({ size: 64, [name]: 1 }));
    return /did you mean (\w+)\?/.exec(error.message)?.[1];
  };
  assert.equal(guess('maxblocks'), 'maxBlocks');
  assert.equal(guess('max_blocks'), 'maxBlocks');
  assert.equal(guess('boundry'), 'boundary');
  assert.equal(guess('initOnAloc'), 'initOnAlloc');
  assert.equal(guess('alignment'), 'align');
  assert.equal(guess('initOnFre'), 'initOnFree');
  assert.equal(guess('wordin'), undefined, 'an undocumented option is not suggested');
  assert.equal(guess('x'), undefined);
  assert.equal(guess('a'.repeat(100_000)), undefined);
});

test('a name is quoted, whatever characters it has', () => {
  const error = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => createPool({ size: 64, 'a\nb': 1 }));
  assert.match(error.message, /^unknown option "a\\nb";/);
});

test('pools, devices and memory refuse unknown options', async () => {
  await refuses(() => createPool(misspelt({ size: 64 })), /^unknown option "misspelt"; accepted: size, align/);
  await refuses(
    () => createPool({ size: 64, debug: { quarantin: true } }),
    /"quarantin" of debug; did you mean quarantine\?/,
  );
  await refuses(() => DmaPool.createManaged('rx', device(), misspelt({ size: 64 })), /unknown option "misspelt"/);
  await refuses(() => new Device(misspelt({ name: 'eth0' })), /accepted: name, path, parent, memory, dmaMask/);
  await refuses(() => new HeapMemory(misspelt({})), /accepted: limit, step, pageSize$/);
  await refuses(
    () => new WasmMemory(misspelt({ memory: {}, size: 4096 })),
    /accepted: memory, size, offset, pageSize$/,
  );
  await refuses(() => new PoolGeometry(misspelt({ size: 64 })), /accepted: size, align, boundary, pageSize$/);
  await refuses(() => sharePool(pool(), misspelt({})).handle, /accepted: magazine$/);
  await refuses(() => attachPool(sharePool(pool()).handle, misspelt({})).pool, /accepted: device, openRegion$/);
  await refuses(() => pool().allocWait(misspelt({})), /accepted: signal, timeout, zero$/);
  const shared = pool();
  sharePool(shared);
  await refuses(() => shared.allocWait(misspelt({})), /accepted: signal, timeout, zero$/);
  await refuses(() => sharePool(shared, misspelt({})).handle, /accepted: magazine$/);
});

test('traces and the system functions refuse unknown options', async () => {
  const bytes = new TextEncoder().encode('#dma_pool-trace v1\n');
  await refuses(() => decodeTrace(bytes, misspelt({})), /accepted: name$/);
  await refuses(() => readPools(bytes, misspelt({})), /accepted: name$/);
  const trace = await decodeTrace(bytes);
  await refuses(() => replayTrace(trace, misspelt({})), /accepted: expected, debug, repeat, onProgress$/);
  await refuses(() => new HugetlbMemory(misspelt({ size: 1 })), /accepted: size, hugepageSize, node$/);
  await refuses(() => VfioDevice.open('0000:00:05.0', misspelt({})), /accepted: log, dmaMask, memory$/);
  await refuses(
    () => VfioDevice.open('0000:00:05.0', { memory: misspelt({}) }),
    /"misspelt" of memory; accepted: size/,
  );
  await refuses(() => listPciDevices(misspelt({ sys: '/', proc: '/', dev: '/' })), /accepted: sys, proc, dev$/);
  await refuses(() => bindToVfio([], misspelt({ sys: '/', proc: '/', dev: '/' })), /accepted: sys, proc, dev$/);
});

test('functions, interrupts and machines refuse unknown options', async () => {
  await refuses(() => PciFunction.open(new FakeBackend(), misspelt({})), /accepted: log, memory, dmaMask$/);
  const pci = await PciFunction.open(new FakeBackend());
  await refuses(() => pci.interrupts(misspelt({})), /accepted: kinds, vectors, pollInterval, busyPoll$/);
  const interrupts = await pci.interrupts();
  await refuses(() => interrupts.wait(misspelt({})), /accepted: vector, timeout, signal, ready$/);
  await pci.close();
  await refuses(() => QemuMachine.start(misspelt({})), /accepted: memory, highMemory, devices/);
  await refuses(
    () => QemuMachine.start({ drives: [misspelt({ id: 'a', file: 'b' })] }),
    /"misspelt" of drives; accepted: id/,
  );
});

test('drivers refuse unknown options', async () => {
  const pci = await PciFunction.open(new FakeBackend());
  await refuses(() => E1000.open(pci, misspelt({})), /accepted: receiveDescriptors/);
  await refuses(() => NvmeController.open(pci, misspelt({})), /accepted: queues, queueDepth/);
  await refuses(() => NvmeController.open(pci, { interrupts: misspelt({}) }), /of interrupts; accepted: kinds/);
  await pci.close();
  const other = new FakeBackend();
  other.config.setUint32(8, 0x0c03_2010, true);
  const usb = await PciFunction.open(other);
  await refuses(() => EhciController.open(usb, misspelt({})), /accepted: timeout, interrupts$/);
  await usb.close();
  const bench = await start();
  const { nvme, disk } = bench;
  const sector = new Uint8Array(512);
  await refuses(() => disk.write(0, sector, misspelt({})), /accepted: fua$/);
  await refuses(() => disk.readDma(0, { dma: 0, size: 512 }, misspelt({})), /accepted: fua, offset, length$/);
  await refuses(() => disk.writeZeroes(0, 1, misspelt({})), /accepted: deallocate, timeout$/);
  await refuses(() => disk.flush(misspelt({})), /accepted: timeout$/);
  await refuses(() => nvme.admin({ opcode: 0x80 }, undefined, misspelt({})), /accepted: timeout$/);
  await refuses(() => nvme.admin(misspelt({ opcode: 6 })), /of command; accepted: opcode, nsid/);
  await end(bench);
});

test('options may be clones, have no prototype, be inherited or come from a class', () => {
  const align = (options: object): number => createPool(options).geometry.align;
  assert.equal(align(structuredClone({ size: 64, align: 32 })), 32);
  assert.equal(align(Object.assign(Object.create(null) as object, { size: 64, align: 32 })), 32);
  assert.equal(align(Object.create({ size: 64, align: 32 }) as object), 32);
  class Options {
    readonly size = 64;
    readonly #align = 32;
    get align(): number {
      return this.#align;
    }
    toString(): string {
      return 'options';
    }
  }
  assert.equal(align(new Options()), 32);
  assert.equal(align(Object.freeze({ size: 64, align: 32 })), 32);
  assert.equal(align({ size: 64, align: 32, [Symbol('note')]: 1 }), 32, 'symbols are ignored');
  assert.equal(align({ size: 64, align: undefined }), 0, 'an undefined option is absent');
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => align(Object.create({ size: 64, aling: 32 }) as object));
});

test('each option is read once', () => {
  let reads = 0;
  const made = createPool({
    get size() {
      return ++reads === 1 ? 64 : -1;
    },
  });
  assert.equal(reads, 1);
  assert.equal(made.geometry.size, 64);
});

test('an error that an options object throws is the cause of a typed error', () => {
  const options = {
    get size(): number {
      throw new RangeError('mine');
    },
  };
  const error = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => createPool(options));
  assert.ok(error.cause instanceof RangeError && error.cause.message === 'mine');
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => createPool(throwing()));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => createPool(revoked()));
});

test('a user’s driver can read options in the same way', () => {
  const names = { depth: true, secret: false };
  assert.deepEqual(readOptions<{ depth?: number; secret?: number }>('options', { depth: 3, secret: 4 }, names), {
    depth: 3,
    secret: 4,
  });
  const error = throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => readOptions('ring', { dept: 3 }, names));
  assert.equal(error.message, 'unknown option "dept" of ring; did you mean depth? accepted: depth');
});
