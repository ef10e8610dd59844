/** Identify data of a controller and its namespaces, in every version of the specification. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { NvmeError } from 'dmapool/drivers/nvme';
import { rejectsAs } from '../../support/errors.ts';
import { until } from '../../support/until.ts';
import { BLOCK, FakeNvme } from './fake-nvme.ts';
import { type Bench, end, start } from './fake-fixture.ts';

/**
 * A controller whose namespace has `formats` formats of 512 bytes, except number `large`, which has 4096; FLBAS is
 * `flbas`.
 */
function formatted(flbas: number, formats: { nlbaf: number; nulbaf?: number; large: number }): Promise<Bench> {
  const fake = new FakeNvme();
  fake.onIdentify = (cns, view) => {
    if (cns !== 0) return;
    view.setUint8(25, formats.nlbaf);
    view.setUint8(26, flbas);
    view.setUint8(82, formats.nulbaf ?? 0);
    for (let i = 0; i < 64; i++) view.setUint32(128 + 4 * i, (i === formats.large ? 12 : 9) << 16, true);
  };
  return start(fake);
}

void describe('a namespace’s format', () => {
  void it('has a six-bit index if there are more than sixteen', async () => {
    for (const [nlbaf, nulbaf] of [
      [31, 0],
      [15, 16],
    ] as const) {
      const bench = await formatted(0x21, { nlbaf, nulbaf, large: 17 });
      assert.equal(bench.disk.blockSize, 4096);
      await end(bench);
    }
  });

  void it('has a four-bit index if there are at most sixteen; the other bits have no meaning', async () => {
    const bench = await formatted(0x61, { nlbaf: 15, large: 1 });
    assert.equal(bench.disk.blockSize, 4096);
    await end(bench);
  });

  void it('must exist', async () => {
    const bench = await formatted(0, { nlbaf: 3, large: 3 });
    bench.fake.onIdentify = (_cns, view) => {
      view.setUint8(25, 3);
      view.setUint8(26, 4);
    };
    const error = await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_PROTOCOL', bench.nvme.namespace(1));
    assert.match(error.message, /LBA format 4 of 4/);
    await end(bench);
  });
});

void describe('a controller of an old version', () => {
  for (const [version, name] of [
    [0x0001_0000, '1.0.0'],
    [0x0001_0100, '1.1.0'],
    [0x0001_0201, '1.2.1'],
  ] as const) {
    void it(`lists its namespaces, and reports ${name}`, async () => {
      const fake = new FakeNvme();
      fake.version = version;
      const bench = await start(fake);
      assert.equal(bench.nvme.identity.version, name);
      assert.deepEqual(await bench.nvme.namespaceIds(), [1]);
      await end(bench);
    });
  }

  void it('lists at most 1024 namespaces, and only those with blocks', async () => {
    const fake = new FakeNvme();
    fake.version = 0x0001_0000;
    let asked = 0;
    fake.onIdentify = (cns, view) => {
      if (cns === 1) view.setUint32(516, 0xffff_fffe, true);
      else view.setUint32(0, asked++ % 2 === 0 ? 8 : 0, true);
    };
    const bench = await start(fake);
    const { nvme } = bench;
    asked = 0;
    const ids = await nvme.namespaceIds();
    assert.equal(asked, 1024);
    assert.equal(ids.length, 512);
    await end(bench);
  });
});

void describe('a command identifier', () => {
  void it('is never FFFFh, which stands for no command', { timeout: 60_000 }, async () => {
    const fake = new FakeNvme();
    fake.setCapabilities({ mqes: 2047 });
    const bench = await start(fake, { queueDepth: 1024 });
    const { disk, nvme } = bench;
    assert.equal(nvme.queueDepth, 1024);
    const seen = new Set<number>();
    fake.fate = ({ cid }) => {
      seen.add(cid);
      return null;
    };
    for (let round = 0; round < 65; round++) await Promise.all(Array.from({ length: 1024 }, () => disk.flush()));
    assert.ok(seen.size > 60_000, String(seen.size));
    assert.equal(seen.has(0xffff), false);
    await end(bench);
  });
});

void describe('a completion queue that was deleted', () => {
  void it('gets no doorbell write', async () => {
    const bench = await start(new FakeNvme(), { queues: 2 });
    const { fake, nvme, disk, pci } = bench;
    fake.fate = () => 'hang';
    const reads = Promise.allSettled(Array.from({ length: 4 }, () => disk.read(0, new Uint8Array(BLOCK))));
    await until('the fake holds the commands', () => fake.hung.length === 4);
    fake.interruptsAtDeletion = true;
    await nvme.close();
    for (const { status } of await reads) assert.equal(status, 'rejected');
    assert.deepEqual(fake.faults, []);
    await pci.close();
  });
});
