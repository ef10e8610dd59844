import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DmaPool, Device } from 'dmapool';
import { sharePool } from 'dmapool/shared';
import { type MemoryZone, ZonedMemory } from '../../src/memory/zoned-memory.ts';
import { registerConformance } from './conformance-node.ts';
import { MIB } from '../support/sizes.ts';

const PAGE = 4096;
const FOUR_GIB = 2 ** 32;

function zones(): MemoryZone[] {
  const buffer = new ArrayBuffer(8 * MIB);
  return [
    { dma: PAGE, size: 0x9e000, buffer, byteOffset: PAGE },
    { dma: MIB, size: 3 * MIB, buffer, byteOffset: MIB },
    { dma: FOUR_GIB, size: 4 * MIB, buffer, byteOffset: 4 * MIB },
  ];
}

registerConformance('ZonedMemory', { create: () => new ZonedMemory({ name: 'zones', zones: zones() }) });
registerConformance('ZonedMemory, one odd zone, large pages', {
  create: () =>
    new ZonedMemory({
      name: 'zones',
      pageSize: 16384,
      zones: [{ dma: 5 * 16384, size: 8 * MIB, buffer: new SharedArrayBuffer(9 * MIB), byteOffset: 16384 }],
    }),
});

void describe('ZonedMemory', () => {
  const device = (dmaMask: number): { name: string; dmaMask: number } => ({ name: 'dev', dmaMask });

  void it('gives each device the highest memory it reaches, and lower memory when that is used up', () => {
    const source = new ZonedMemory({ name: 'zones', zones: zones() });
    const alloc = (mask: number): number =>
      source.allocCoherent({ device: device(mask), size: MIB / 4, node: -1 })?.dma ?? -1;
    assert.equal(alloc(2 ** 53 - 1), FOUR_GIB);
    assert.equal(alloc(FOUR_GIB - 1), MIB);
    assert.equal(alloc(MIB - 1), MIB / 4);
    assert.equal(alloc(PAGE - 1), -1);
    for (let i = 0; i < 15; i++) assert.ok(alloc(2 ** 53 - 1) > FOUR_GIB);
    assert.equal(alloc(2 ** 53 - 1), MIB + MIB / 4, 'the low zone when the high one is full');
  });

  void it('clears the writes of a stray device to memory that was never allocated', () => {
    const all = zones();
    const source = new ZonedMemory({ name: 'zones', zones: all });
    new Uint8Array(all[2]!.buffer).fill(0xee);
    const memory = source.allocCoherent({ device: device(2 ** 53 - 1), size: 10_000, node: -1 })!;
    const bytes = new Uint8Array(memory.buffer, memory.byteOffset, 3 * PAGE);
    assert.ok(bytes.every((byte) => byte === 0));
  });

  void it('counts, and wakes the waiters when a zone is added', () => {
    const source = new ZonedMemory({ name: 'zones' });
    assert.equal(source.allocCoherent({ device: device(2 ** 53 - 1), size: 1, node: -1 }), null);
    let woken = 0;
    source.onceAvailable(() => woken++);
    for (const zone of zones()) source.addZone(zone);
    assert.equal(woken, 1);
    assert.equal(source.limit, 0x9e000 + 7 * MIB);
    const memory = source.allocCoherent({ device: device(2 ** 53 - 1), size: PAGE + 1, node: -1 })!;
    assert.equal(source.bytesInUse, 2 * PAGE);
    source.close();
    assert.equal(source.allocCoherent({ device: device(2 ** 53 - 1), size: 1, node: -1 }), null);
    source.freeCoherent(memory);
    assert.equal(source.bytesInUse, 0);
  });

  void it('refuses invalid zones', () => {
    const [zone] = zones();
    for (const wrong of [{ dma: 5 }, { size: 0 }, { size: 100 }, { byteOffset: 4 }, { byteOffset: 8 * MIB }]) {
      assert.throws(() => new ZonedMemory({ name: 'zones', zones: [{ ...zone!, ...wrong }] }), {
        code: 'ERR_DMAPOOL_INVALID_ARGUMENT',
      });
    }
  });

  void it('cannot be shared without a way to share the buffer', () => {
    const memory = new ZonedMemory({ name: 'zones', zones: zones() });
    const pool = DmaPool.create('p', new Device({ name: 'dev', memory }), { size: 64, maxBlocks: 8 });
    assert.throws(() => sharePool(pool).handle, { code: 'ERR_DMAPOOL_NOT_SHAREABLE', message: /zones/ });
    pool.free(pool.alloc());
    pool.destroy();
    assert.equal(memory.bytesInUse, 0);
  });
});
