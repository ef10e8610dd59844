import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { DmaPool, DmaReleaseError } from 'dmapool';
import { PCI_CAPABILITY, PciError, PciFunction, PciGoneError } from 'dmapool/pci';
import { rejectsCode, throwsCode } from '../support/errors.ts';
import { RecordingLog } from '../support/log.ts';
import { FakeBackend } from './fake-backend.ts';

const ARGUMENT = 'ERR_DMAPOOL_INVALID_ARGUMENT';

async function opened(backend = new FakeBackend()): Promise<{ backend: FakeBackend; fn: PciFunction }> {
  return { backend, fn: await PciFunction.open(backend, { log: new RecordingLog() }) };
}

void describe('a PCI function', () => {
  void it('has one driver at a time', async () => {
    const { fn } = await opened();
    const end = fn.claim('nvme');
    const error = throwsCode('ERR_DMAPOOL_PCI_BUSY', () => fn.claim('e1000'));
    assert.match(error.message, /0000:00:05\.0.*nvme/);
    end();
    const endOther = fn.claim('e1000');
    end();
    throwsCode('ERR_DMAPOOL_PCI_BUSY', () => fn.claim('nvme'));
    endOther();
    throwsCode(ARGUMENT, () => fn.claim(1 as unknown as string));
    await fn.close();
    throwsCode('ERR_DMAPOOL_PCI_CLOSED', () => fn.claim('nvme'));
  });

  void it('has its ids, decodes its registers and may not do DMA yet', async () => {
    const backend = new FakeBackend();
    backend.config.setUint16(4, 0x404, true);
    const { fn } = await opened(backend);
    assert.deepEqual(
      [fn.vendorId, fn.deviceId, fn.classCode, fn.revision, fn.device.name, fn.device.memory],
      [0x1234, 0x5678, 0x010802, 3, '0000:00:05.0', backend.memory],
    );
    assert.equal(await fn.config.read16(4), 0x403, 'memory and I/O on, bus mastering off, the rest unchanged');
    assert.equal(await fn.isBusMaster(), false);
    await fn.enableBusMaster();
    assert.equal(await fn.isBusMaster(), true);
    await fn.disableBusMaster();
    assert.equal(await fn.isBusMaster(), false);
  });

  void it('reads what was written in every width and place, and refuses other accesses', async () => {
    const { backend, fn } = await opened();
    const value = fc.oneof(
      fc.integer({ min: -(2 ** 33), max: 2 ** 33 }),
      fc.constantFrom(0, -1, 255, 256, -128, -129, 65535, -32768, 2 ** 31, -(2 ** 31), 2 ** 32 - 1, 0.5, NaN, '1', 1n),
    );
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(0, 3, 'config'),
        fc.constantFrom(8, 16, 32),
        fc.oneof(fc.integer({ min: -4, max: 40 }), fc.integer({ min: 240, max: 4100 }), fc.constantFrom(1.5, NaN, '0')),
        value,
        async (where, width, offset, written) => {
          const target = where === 'config' ? fn.config : fn.bar(where as number);
          const size = target.size;
          const bytes = width / 8;
          const range = 2 ** width;
          const goodOffset = Number.isInteger(offset) && Number(offset) >= 0 && Number(offset) % bytes === 0;
          const inside = goodOffset && Number(offset) + bytes <= size;
          const fits =
            typeof written === 'number' && Number.isInteger(written) && written >= -range / 2 && written < range;
          // The header's first registers are unchanged.
          if (where === 'config' && inside && Number(offset) < 0x40) return;
          const at = offset as number;
          const write = async (): Promise<void> => {
            if (width === 8) await target.write8(at, written as number);
            else if (width === 16) await target.write16(at, written as number);
            else await target.write32(at, written as number);
          };
          const read = (): Promise<number> =>
            width === 8 ? target.read8(at) : width === 16 ? target.read16(at) : target.read32(at);
          if (inside && fits) {
            await write();
            assert.equal(await read(), written < 0 ? written + range : written);
          } else {
            await rejectsCode(ARGUMENT, write());
            if (!inside) await rejectsCode(ARGUMENT, read());
          }
        },
      ),
      { numRuns: 800 },
    );
    assert.equal(backend.calls.includes('close'), false);
  });

  void it('has 64-bit values as bigints, and addresses as numbers', async () => {
    const { fn } = await opened();
    const bar = fn.bar(0);
    for (const value of [0, 1, 2 ** 32, 2 ** 53 - 1, 0n, 2n ** 64n - 2n]) {
      bar.write64(8, value);
      assert.equal(await bar.read64(8), BigInt(value));
    }
    for (const wrong of [-1, -1n, 2n ** 64n, 2 ** 53, 0.5, '1', null]) {
      throwsCode(ARGUMENT, () => {
        bar.write64(8, wrong as number);
      });
    }
    for (const offset of [4, -8, 4096]) await rejectsCode(ARGUMENT, bar.read64(offset));
    throwsCode('ERR_DMAPOOL_PCI_UNSUPPORTED', () => {
      fn.bar(3).write64(0, 1);
    });
    await rejectsCode('ERR_DMAPOOL_PCI_UNSUPPORTED', fn.bar(3).read64(0));
    const error = throwsCode('ERR_DMAPOOL_PCI_UNSUPPORTED', () => fn.bar(1));
    assert.match(error.message, /0000:00:05.0: it has no BAR 1; it has: 0, 3/);
    for (const wrong of [-1, 6, 0.5]) throwsCode(ARGUMENT, () => fn.bar(wrong));
  });

  void it('treats all ones as a value, or as a device that is gone', async () => {
    const { backend, fn } = await opened();
    fn.bar(0).write32(0, 0xffff_ffff);
    fn.bar(0).write64(8, 2n ** 64n - 1n);
    assert.equal(await fn.bar(0).read32(0), 0xffff_ffff);
    assert.equal(await fn.bar(0).read64(8), 2n ** 64n - 1n);
    backend.gone = true;
    for (const read of [
      () => fn.bar(0).read8(0),
      () => fn.bar(3).read16(0),
      () => fn.bar(0).read32(0),
      () => fn.bar(0).read64(0),
      () => fn.config.read32(0x40),
      () => fn.enableBusMaster(),
    ]) {
      const error = await rejectsCode('ERR_DMAPOOL_PCI_GONE', read());
      assert.ok(error instanceof PciGoneError && error instanceof PciError && error.address === '0000:00:05.0');
    }
    const other = new FakeBackend();
    other.gone = true;
    await rejectsCode('ERR_DMAPOOL_PCI_GONE', PciFunction.open(other));
  });

  void it('walks its capabilities, and stops at a cycle', async () => {
    const { backend, fn } = await opened(new FakeBackend(4096));
    assert.deepEqual(await fn.config.capabilities(), []);
    backend.putCapabilities([1, 0x50], [0x11, 0x40], [0x10, 0x80]);
    assert.deepEqual(
      (await fn.config.capabilities()).map(({ id, offset }) => [id, offset]),
      [
        [1, 0x50],
        [0x11, 0x40],
        [0x10, 0x80],
      ],
    );
    assert.equal((await fn.config.findCapability(PCI_CAPABILITY.msix))?.offset, 0x40);
    assert.equal(await fn.config.findCapability(PCI_CAPABILITY.msi), null);
    backend.config.setUint8(0x81, 0x50);
    await rejectsCode('ERR_DMAPOOL_PCI_PROTOCOL', fn.config.capabilities());
    backend.config.setUint8(0x81, 0x04);
    await rejectsCode('ERR_DMAPOOL_PCI_PROTOCOL', fn.config.findCapability(0x11));
    assert.deepEqual(await fn.config.extendedCapabilities(), []);
    backend.config.setUint32(0x100, 0x1482_0001, true);
    backend.config.setUint32(0x148, 0x0001_0003, true);
    assert.deepEqual(
      (await fn.config.extendedCapabilities()).map(({ id, offset, version }) => ({ id, offset, version })),
      [
        { id: 1, offset: 0x100, version: 2 },
        { id: 3, offset: 0x148, version: 1 },
      ],
    );
    backend.config.setUint32(0x148, 0x1001_0003, true);
    await rejectsCode('ERR_DMAPOOL_PCI_PROTOCOL', fn.config.extendedCapabilities());
  });

  void it('has windows of its registers, with offsets from their start', async () => {
    const { backend, fn } = await opened();
    const bar = fn.bar(0);
    const window = bar.window(0x800, 0x40);
    assert.deepEqual([window.index, window.kind, window.offset, window.size], [0, 'memory', 0x800, 0x40]);
    window.write8(0, 0x11);
    window.write16(2, 0x2222);
    window.write32(4, 0x3333_3333);
    window.write64(8, 0x4444_4444_4444_4444n);
    assert.deepEqual(
      [await bar.read8(0x800), await bar.read16(0x802), await bar.read32(0x804), await bar.read64(0x808)],
      [0x11, 0x2222, 0x3333_3333, 0x4444_4444_4444_4444n],
    );
    assert.deepEqual(
      [await window.read8(0), await window.read16(2), await window.read32(4), await window.read64(8)],
      [0x11, 0x2222, 0x3333_3333, 0x4444_4444_4444_4444n],
    );
    await window.flush();
    const inner = window.window(4, 4);
    assert.equal(inner.offset, 0x804);
    assert.equal(await inner.read32(0), 0x3333_3333);
    // The accesses of the bus are aligned, wherever the window begins.
    const odd = bar.window(0x804, 12);
    assert.equal(await odd.read64(4), 0x4444_4444_4444_4444n);
    const unaligned = await rejectsCode(ARGUMENT, odd.read64(0));
    assert.match(
      unaligned.message,
      /BAR 0 from 0x804 offset is 0; accepted: 4 less than a multiple of 8 from 0 to 0x4/,
    );
    throwsCode('ERR_DMAPOOL_PCI_UNSUPPORTED', () => {
      fn.bar(3).window(8, 8).write64(0, 1);
    });
    await fn.close();
    assert.equal(backend.calls.filter((call) => call === 'flush').length, 2);
    throwsCode('ERR_DMAPOOL_PCI_CLOSED', () => {
      window.write8(0, 1);
    });
  });

  void it('lets no access of a window leave it, and no window its region', async () => {
    const { fn } = await opened();
    const bar = fn.bar(0);
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(fc.integer({ min: -2, max: 4100 }), fc.constantFrom(0.5, NaN, '1', 1n, undefined)),
        fc.oneof(fc.integer({ min: -2, max: 4100 }), fc.constantFrom(0.5, NaN, '1', 1n, undefined)),
        fc.integer({ min: -8, max: 4104 }),
        fc.constantFrom(1, 2, 4, 8),
        async (offset, length, at, bytes) => {
          const isValid =
            Number.isInteger(offset) &&
            Number.isInteger(length) &&
            Number(offset) >= 0 &&
            Number(length) >= 1 &&
            Number(offset) + Number(length) <= 4096;
          if (!isValid) {
            throwsCode(ARGUMENT, () => bar.window(offset as number, length as number));
            return;
          }
          const window = bar.window(offset as number, length as number);
          const read = (): Promise<unknown> =>
            bytes === 1
              ? window.read8(at)
              : bytes === 2
                ? window.read16(at)
                : bytes === 4
                  ? window.read32(at)
                  : window.read64(at);
          if (at >= 0 && at + bytes <= window.size && (window.offset + at) % bytes === 0) await read();
          else await rejectsCode(ARGUMENT, read());
        },
      ),
      { numRuns: 2000 },
    );
    const error = throwsCode(ARGUMENT, () => bar.window(0x100, 16).window(8, 9));
    assert.match(
      error.message,
      /0000:00:05\.0: offset of a window of BAR 0 from 0x100 is 8; accepted: a whole number from 0 to 0x7$/,
    );
  });

  void it('finds all capabilities with an ID, and each reads its own registers', async () => {
    const { backend, fn } = await opened(new FakeBackend(4096));
    const { vendorSpecific } = PCI_CAPABILITY;
    assert.deepEqual(await fn.config.findCapabilities(vendorSpecific), []);
    backend.putCapabilities([vendorSpecific, 0x50], [0x11, 0x40], [vendorSpecific, 0xf0]);
    const found = await fn.config.findCapabilities(vendorSpecific);
    assert.deepEqual(
      found.map(({ id, offset, version }) => [id, offset, version]),
      [
        [9, 0x50, 0],
        [9, 0xf0, 0],
      ],
    );
    assert.equal((await fn.config.findCapability(vendorSpecific))?.offset, 0x50);
    const [first, last] = found;
    assert.deepEqual([await first!.read8(1), await last!.read8(1)], [0x40, 0]);
    await last!.write8(3, 0xab);
    await last!.write16(4, -2);
    await last!.write32(8, 0x1234_5678);
    assert.deepEqual(
      [await fn.config.read8(0xf3), await fn.config.read16(0xf4), await fn.config.read32(0xf8)],
      [0xab, 0xfffe, 0x1234_5678],
    );
    await last!.update16(4, 1, 0x8000);
    assert.deepEqual([await last!.read16(4), await last!.read32(8)], [0x7fff, 0x1234_5678]);
    // A conventional capability ends with the first 256 bytes.
    assert.equal(await last!.read32(12), 0);
    for (const [capability, offset] of [
      [last!, 16],
      [last!, 13],
      [first!, -4],
      [first!, 0.5],
      [first!, 0xb0],
    ] as const) {
      await rejectsCode(ARGUMENT, capability.read32(offset));
      await rejectsCode(ARGUMENT, capability.write32(offset, 0));
    }
    await rejectsCode(ARGUMENT, last!.update16(16, 1));
    await rejectsCode(ARGUMENT, last!.write8(3, 256));
    await rejectsCode(ARGUMENT, fn.config.findCapabilities(0x100));
    backend.config.setUint32(0x100, 0x0001_000b, true);
    const [extended] = await fn.config.extendedCapabilities();
    await extended!.write32(0xefc, 7);
    assert.equal(await fn.config.read32(0xffc), 7);
    await rejectsCode(ARGUMENT, extended!.read32(0xf00));
    await fn.close();
    await rejectsCode('ERR_DMAPOOL_PCI_CLOSED', first!.read8(0));
  });

  void it('ends the walk of any capability list, with a list or a typed error', async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 192, maxLength: 192 }), fc.nat(255), async (bytes, pointer) => {
        const { backend, fn } = await opened();
        new Uint8Array(backend.config.buffer).set(bytes, 64);
        backend.config.setUint16(6, 0x10, true);
        backend.config.setUint8(0x34, pointer);
        const found = await fn.config.findCapabilities(9).catch((error: unknown) => error);
        if (Array.isArray(found)) assert.ok(found.length <= 48);
        else assert.equal((found as PciError).code, 'ERR_DMAPOOL_PCI_PROTOCOL');
      }),
      { numRuns: 500 },
    );
  });

  void it('is reset by its PCI backend, by FLR, or not at all, and keeps its addresses', async () => {
    const { backend, fn } = await opened();
    backend.config.setUint32(0x10, 0xfebf_0000, true);
    await fn.enableBusMaster();
    assert.equal(await fn.reset(), false);
    assert.equal(await fn.isBusMaster(), true, 'no register was written');
    backend.resets = true;
    assert.equal(await fn.reset(), true);
    assert.equal(await fn.config.read32(0x10), 0xfebf_0000);
    assert.equal(await fn.config.read16(4), 3, 'decoding again, bus mastering off');
    backend.resets = false;
    backend.putCapabilities([0x13, 0x60]);
    backend.config.setUint8(0x63, 2);
    assert.equal(await fn.reset(), true);
    assert.equal(backend.config.getUint8(0x64), 1, 'by Advanced Features');
    backend.putCapabilities([0x10, 0x80]);
    backend.config.setUint32(0x84, 1 << 28, true);
    assert.equal(await fn.reset(), true);
    assert.ok(backend.calls.includes(`config ${String(0x88)} = ${String(0x8000)}`), 'by PCI Express');
  });

  void it('is reset after pending transactions, and keeps Device Control, MSI and MSI-X', async () => {
    class Express extends FakeBackend {
      readonly order: string[] = [];
      pending = 3;
      override readConfig(offset: number, width: 8 | 16 | 32): Promise<number> {
        if (offset === 0x8a) {
          this.order.push(`pending ${String(this.pending)}`);
          this.config.setUint16(0x8a, this.pending-- > 0 ? 0x20 : 0, true);
        }
        return super.readConfig(offset, width);
      }
      override writeConfig(offset: number, width: 8 | 16 | 32, value: number): Promise<void> {
        if (offset === 0x88 && (value & 0x8000) !== 0) {
          this.order.push(`reset, command ${String(this.config.getUint16(4, true))}`);
          this.regions.get(0)!.setUint32(0x800, 0xdead, true);
          const lost = [4, 0x10, 0x88, 0xa8, 0x42, 0x44, 0x48, 0x4c, 0x50, 0x62];
          for (const at of lost) this.config.setUint16(at, 0, true);
          return Promise.resolve();
        }
        if (offset === 0x62) this.order.push(`msix ${value.toString(16)}`);
        return super.writeConfig(offset, width, value);
      }
    }
    const backend = new Express();
    backend.putCapabilities([0x05, 0x40], [0x11, 0x60], [0x10, 0x80]);
    const { fn } = await opened(backend);
    const words: readonly (readonly [number, number])[] = [
      [0x42, 0x0181], // MSI: 64 bits, masks, on
      [0x44, 0xfee0],
      [0x48, 1],
      [0x4c, 0x4021],
      [0x50, 0x1],
      [0x62, 0x8001], // MSI-X: two entries, on
      [0x64, 0x800], // in BAR 0
      [0x82, 2], // version 2
      [0x88, 0x2810],
      [0xa8, 0x5],
    ];
    for (const [offset, value] of words) backend.config.setUint16(offset, value, true);
    backend.config.setUint32(0x84, 1 << 28, true);
    for (let i = 0; i < 8; i++) backend.regions.get(0)!.setUint32(0x800 + i * 4, i + 1, true);
    await fn.enableBusMaster();
    assert.equal(await fn.reset(), true);
    assert.deepEqual(backend.order, [
      'pending 3',
      'pending 2',
      'pending 1',
      'pending 0',
      'reset, command 3',
      'msix c001',
      'msix 8001',
    ]);
    for (const [offset, value] of words)
      assert.equal(backend.config.getUint16(offset, true), value, offset.toString(16));
    assert.equal(backend.regions.get(0)!.getUint32(0x800, true), 1);
    assert.equal(await fn.isBusMaster(), false);
  });

  void it('is closed once, in an order that keeps memory safe', async () => {
    const { backend, fn } = await opened();
    const pool = DmaPool.createManaged('p', fn.device, { size: 64 });
    const block = pool.alloc();
    await fn.enableBusMaster();
    backend.calls.length = 0;
    const order: string[] = [];
    fn.device.addAction(() => order.push(backend.calls.join('; ')));
    await Promise.all([fn.close(), fn.close()]);
    assert.deepEqual(order, ['flush; config 4 = 3'], 'bus mastering off before memory is freed');
    assert.equal(backend.calls.filter((call) => call === 'close').length, 1);
    assert.equal(backend.memory.bytesInUse, 0, 'with the allocated block too');
    throwsCode('ERR_DMAPOOL_DESTROYED', () => {
      pool.free(block);
    });
    assert.ok(fn.closed);
    throwsCode('ERR_DMAPOOL_PCI_CLOSED', () => {
      fn.bar(0).write32(0, 1);
    });
    await rejectsCode('ERR_DMAPOOL_PCI_CLOSED', fn.bar(0).read32(0));
    await rejectsCode('ERR_DMAPOOL_PCI_CLOSED', fn.bar(0).flush());
    await rejectsCode('ERR_DMAPOOL_PCI_CLOSED', fn.config.read32(0));
    await rejectsCode('ERR_DMAPOOL_PCI_CLOSED', fn.interrupts());
    await rejectsCode('ERR_DMAPOOL_PCI_CLOSED', fn.reset());
  });

  void it('completes a close despite errors, and reports them', async () => {
    const { backend, fn } = await opened();
    backend.closeError = new Error('the backend broke');
    fn.device.addAction(() => {
      throw new Error('the driver broke');
    });
    const error = await rejectsCode('ERR_DMAPOOL_RELEASE', fn.close());
    assert.ok(error instanceof DmaReleaseError && error.errors.length === 2);
    assert.ok(backend.calls.includes('close'));
  });

  void it('can be closed when it is gone', async () => {
    const { backend, fn } = await opened();
    backend.gone = true;
    backend.controller.abort(new PciGoneError(fn.address, 'pulled'));
    await fn.close();
    assert.ok(backend.calls.includes('close'));
  });
});
