/** The NVMe driver on QEMU's device model: every command, every shape of PRP, every refusal. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import { type Device, DmaPool } from 'dmapool';
import { NvmeController, NvmeError, type NvmeStatusError, nvmeStatusName } from 'dmapool/drivers/nvme';
import { diskImage } from '../../support/disk-image.ts';
import { rejectsAs, rejectsCode, throwsCode } from '../../support/errors.ts';
import { startMachine, withoutQemu } from '../../qemu/qemu.ts';
import { assertIdle, closeNvme, startBench, startNvme } from './fixture.ts';
import { MIB } from '../../support/sizes.ts';
import { Random } from '../../support/random.ts';

function counts(device: Device): Record<string, number> {
  const lines = (device.readAttribute('pools') ?? '').split('\n').slice(1);
  const found = lines.map((line) => /^(.*?) +(\d+) +(\d+) +(\d+) +(\d+)$/.exec(line)).filter((match) => match !== null);
  return Object.fromEntries(found.map(([, name, , blocks]) => [name!, Number(blocks)]));
}

void describe('the NVMe driver', { skip: withoutQemu }, () => {
  void it('identifies controller and namespaces', async (t) => {
    const bench = await startNvme(t, { queues: 3 });
    const { nvme, disk, pci } = bench;
    assert.equal(nvme.identity.modelNumber, 'QEMU NVMe Ctrl');
    assert.equal(nvme.identity.serialNumber, 'S/N 1');
    assert.equal(nvme.identity.vendorId, pci.subsystemVendorId === 0 ? pci.vendorId : nvme.identity.vendorId);
    assert.match(nvme.identity.version, /^1\.[3-9]\.0$/);
    assert.equal(nvme.queues, 3);
    assert.deepEqual(await nvme.namespaceIds(), [1]);
    assert.equal(disk.size, 16 * MIB);
    assert.equal(disk.blockSize * disk.blocks, disk.size);
    assert.ok(await pci.isBusMaster());
    await closeNvme(bench);
  });

  void it('opens several namespaces, of other block sizes too', async (t) => {
    const [first, third] = [diskImage(t, 2 * MIB), diskImage(t, 4 * MIB)];
    const machine = await startMachine(t, {
      drives: [
        { id: 'disk1', file: first },
        { id: 'disk3', file: third },
      ],
      devices: [
        'nvme,id=nvme0,serial=1',
        'nvme-ns,drive=disk1,bus=nvme0,nsid=1',
        'nvme-ns,drive=disk3,bus=nvme0,nsid=3,logical_block_size=4096,physical_block_size=4096',
      ],
    });
    const pci = await machine.open('nvme0');
    const nvme = await NvmeController.open(pci);
    assert.deepEqual(await nvme.namespaceIds(), [1, 3]);
    const disks = [await nvme.namespace(1), await nvme.namespace(3)] as const;
    assert.deepEqual(
      disks.map(({ nsid, blockSize, size }) => [nsid, blockSize, size]),
      [
        [1, 512, 2 * MIB],
        [3, 4096, 4 * MIB],
      ],
    );
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => disks[1].read(0, new Uint8Array(512)));
    for (const disk of disks) await disk.write(disk.blocks - 2, new Uint8Array(2 * disk.blockSize).fill(disk.nsid));
    await nvme.close();
    await pci.close();
    await machine.close();
    const expected = (size: number, written: number, value: number): Buffer =>
      Buffer.concat([Buffer.alloc(size - written), Buffer.alloc(written, value)]);
    assert.ok(readFileSync(first).equals(expected(2 * MIB, 1024, 1)));
    assert.ok(readFileSync(third).equals(expected(4 * MIB, 8192, 3)));
  });

  void it('transfers data of every size, with lists from the matching pool', async (t) => {
    // At most 4 MiB per command.
    const bench = await startNvme(t, { bench: { size: 32 * MIB, device: { mdts: 10 } } });
    const { nvme, disk, pci } = bench;
    assert.equal(nvme.maxTransfer, 4 * MIB);
    const random = new Random(7);
    const page = 4096;
    // Pages: 1, 2: no list. 3 to 33: a small one. 34 to 513: a page. More: chained.
    const cases: [bytes: number, small: number, large: number][] = [
      [512, 0, 0],
      [page, 0, 0],
      [2 * page, 0, 0],
      [2 * page + 512, 1, 0],
      [33 * page, 1, 0],
      [33 * page + 512, 0, 1],
      [513 * page, 0, 1],
      [513 * page + 512, 0, 2],
      [1024 * page - 512, 0, 2],
      [4 * MIB, 0, 2],
      [9 * MIB + 512, 0, 5],
    ];
    const lists = (): [number, number] => {
      const [, large, small] = nvme.pools.map((pool) => pool.statistics().allocations);
      return [small!, large!];
    };
    for (const [bytes, small, large] of cases) {
      const lba = random.below(disk.blocks - bytes / 512);
      const data = random.fill(Buffer.alloc(bytes)) as Buffer;
      const before = lists();
      await disk.write(lba, data);
      const after = lists();
      assert.deepEqual([after[0] - before[0], after[1] - before[1]], [small, large], `${String(bytes)} bytes`);
      const back = Buffer.alloc(bytes);
      await disk.read(lba, back);
      assert.ok(back.equals(data), `${String(bytes)} bytes`);
      await disk.flush();
      assert.ok(
        readFileSync(bench.file)
          .subarray(lba * 512, lba * 512 + bytes)
          .equals(data),
        `${String(bytes)} bytes`,
      );
      assertIdle(nvme);
    }
    // As Linux has them: 4096/4096/0 and 256/256/0.
    const geometries = nvme.pools.slice(1).map(({ geometry }) => [geometry.blockSize, geometry.align]);
    assert.deepEqual(geometries, [
      [4096, 4096],
      [256, 256],
    ]);
    assert.equal(counts(pci.device)['prp list 256'], 16, 'sixteen share a page');
    await closeNvme(bench);
  });

  void it('transfers data to and from DMA memory without a copy, at any dword offset', async (t) => {
    const bench = await startNvme(t, { bench: { device: { mdts: 10 } } });
    const { nvme, disk, pci } = bench;
    const random = new Random(3);
    const pool = DmaPool.createManaged('user buffers', pci.device, { size: 5 * MIB, align: 4096 });
    const data = pool.alloc();
    const back = pool.alloc();
    random.fill(data.bytes);
    const [before] = nvme.pools.map((each) => each.statistics().allocations);
    for (const [offset, length] of [
      [0, 5 * MIB],
      // Chains that begin and end inside a page.
      [4092, 4 * MIB],
      [4, 512],
      [4092, 512],
      [4092, 4096],
      [2048, 4096 * 2],
      [1028, 512 * 1024],
      [4096, 34 * 4096],
    ] as const) {
      back.bytes.fill(0);
      await disk.writeDma(5, data, { offset, length });
      await disk.readDma(5, back, { offset, length });
      const expected = data.bytes.subarray(offset, offset + length);
      assert.ok(
        Buffer.from(back.bytes.subarray(offset, offset + length)).equals(expected),
        `${String(offset)} ${String(length)}`,
      );
      assert.ok(
        back.bytes.subarray(0, offset).every((byte) => byte === 0),
        'no byte before',
      );
      assert.ok(
        back.bytes.subarray(offset + length).every((byte) => byte === 0),
        'no byte behind',
      );
    }
    assert.equal(nvme.pools[0]!.statistics().allocations, before, 'no page for copies was allocated');
    // Several at once, one of them longer than a command.
    const pieces = [512, 4096, 34 * 4096, 5 * MIB].map((size) => pci.device.allocCoherent(size)!);
    const contents = pieces.map(({ buffer, byteOffset, size }) => new Uint8Array(buffer, byteOffset, size));
    const lbas = [9, 50, 100, 20_000];
    const written = contents.map((content) => random.fill(content).slice());
    await disk.writeDmaBulk(lbas, pieces, { fua: true });
    for (const content of contents) content.fill(0);
    await disk.readDmaBulk(lbas, pieces);
    contents.forEach((content, i) => {
      assert.ok(Buffer.from(content).equals(written[i]!), `piece ${String(i)}`);
    });
    for (const piece of pieces) pci.device.freeCoherent(piece);
    const coherent = pci.device.allocCoherent(4096)!;
    await disk.readDma(5, coherent, { length: 512 });
    pci.device.freeCoherent(coherent);
    pool.free(data);
    throwsCode('ERR_DMAPOOL_STALE_BLOCK', () => {
      // The block is stale: the read is refused before submission.
      pool.trim();
      return disk.readDma(5, data);
    });
    pool.free(back);
    pool.destroy();
    await closeNvme(bench);
  });

  void it('writes zeroes, deallocates and flushes', async (t) => {
    const bench = await startNvme(t, { bench: { size: 64 * MIB } });
    const { disk, nvme } = bench;
    const ones = Buffer.alloc(disk.size, 0xff);
    await disk.write(0, ones);
    const model = Buffer.from(ones);
    await disk.writeZeroes(3, 5);
    model.fill(0, 3 * 512, 8 * 512);
    // More than one command can cover.
    await disk.writeZeroes(1000, 70_000, { deallocate: true });
    model.fill(0, 1000 * 512, 71_000 * 512);
    const back = Buffer.alloc(disk.size);
    await disk.read(0, back);
    assert.ok(back.equals(model));
    assert.equal(disk.deallocatedReads, 'zeros');
    await disk.deallocate([
      { lba: 80_000, blocks: 8 },
      { lba: 90_000, blocks: 800 },
    ]);
    model.fill(0, 80_000 * 512, 80_008 * 512);
    model.fill(0, 90_000 * 512, 90_800 * 512);
    await disk.read(0, back);
    assert.ok(back.equals(model));
    await disk.flush();
    assert.equal(nvme.statistics().resets, 0);
    await closeNvme(bench);
    assert.ok(readFileSync(bench.file).equals(model));
  });

  void it('accepts any valid passthrough command', async (t) => {
    const bench = await startNvme(t, {});
    const { nvme, disk } = bench;
    // Get Log Page (5.14): SMART / Health Information of 512 bytes.
    const log = new Uint8Array(512);
    await nvme.admin({ opcode: 0x02, nsid: 0xffff_ffff, cdw10: 0x02 | (127 << 16) }, log);
    const kelvin = new DataView(log.buffer).getUint16(1, true);
    assert.ok(kelvin > 273 && kelvin < 400, String(kelvin));
    // Get Features (5.13): Number of Queues, as many as QEMU has.
    assert.equal((await nvme.admin({ opcode: 0x0a, cdw10: 0x07 })) & 0xffff, 63);
    // Compare (6.6).
    const data = new Random(5).fill(new Uint8Array(512));
    await disk.write(9, data);
    const compare = { opcode: 0x05, nsid: 1, cdw10: 9 };
    await nvme.io(compare, data);
    data[17]! ^= 1;
    const error = await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_STATUS', nvme.io(compare, data));
    assert.equal((error as NvmeStatusError).status, 'Compare Failure');
    await closeNvme(bench);
  });

  void it('reports refusals of the controller by name, and loses no block', async (t) => {
    const bench = await startNvme(t, { queues: 2 });
    const { nvme, disk, pci } = bench;
    const buffer = new Uint8Array(64 * 512);
    const expectStatus = async (status: string, promise: Promise<unknown>): Promise<void> => {
      const error = (await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_STATUS', promise)) as NvmeStatusError;
      assert.equal(error.status, status);
      assert.equal(error.status, nvmeStatusName(error.statusCodeType, error.statusCode));
      assert.equal(error.device, pci.address);
      assert.ok(error.message.includes(status) && error.message.startsWith(pci.address), error.message);
      assertIdle(nvme);
    };
    await expectStatus('LBA Out of Range', disk.read(disk.blocks, buffer));
    await expectStatus('LBA Out of Range', disk.write(disk.blocks - 63, buffer));
    await expectStatus('LBA Out of Range', disk.read(2 ** 40, buffer));
    await expectStatus('LBA Out of Range', disk.writeZeroes(disk.blocks, 1));
    await expectStatus('Invalid Namespace or Format', nvme.io({ opcode: 0x00, nsid: 4711 }));
    await expectStatus('Invalid Command Opcode', nvme.admin({ opcode: 0xff }, buffer));
    await expectStatus('Invalid Field in Command', nvme.admin({ opcode: 0x06, cdw10: 0x77 }, new Uint8Array(4096)));
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_NO_NAMESPACE', nvme.io({ opcode: 0x02, nsid: 4711 }, buffer));
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_NO_NAMESPACE', nvme.namespace(2));
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_NO_NAMESPACE', nvme.namespace(4711));
    // One part of many fails: the call awaits all others first.
    await expectStatus('LBA Out of Range', disk.read(disk.blocks - 8192, new Uint8Array(6 * MIB)));
    await disk.read(disk.blocks - 64, buffer);
    await closeNvme(bench);
  });

  void it('refuses wrong arguments before submission', async (t) => {
    const bench = await startNvme(t, {});
    const { nvme, disk, pci } = bench;
    const { submitted } = nvme.statistics();
    const buffer = new Uint8Array(512);
    const wrong: (() => unknown)[] = [
      () => disk.read(-1, buffer),
      () => disk.read(0.5, buffer),
      () => disk.read(NaN, buffer),
      () => disk.read('0' as never, buffer),
      () => disk.read(0, new Uint8Array(0)),
      () => disk.read(0, new Uint8Array(513)),
      () => disk.read(0, [1, 2] as never),
      () => disk.write(0, null as never),
      () => disk.write(0, buffer, null as never),
      () => disk.write(0, buffer, 'fua' as never),
      () => disk.readDma(0, null as never),
      () => disk.writeDma(0, undefined as never),
      () => disk.readDma(0, { dma: 4096, size: 512 }, null as never),
      () => disk.readDma(0, { dma: 4098, size: 512 }),
      () => disk.readDma(0, { dma: 4096, size: 512 }, { offset: 512 }),
      () => disk.readDma(0, { dma: 4096, size: 512 }, { length: 1024 }),
      () => disk.readDma(0, { dma: -4096, size: 512 }),
      () => disk.readDmaBulk(0 as never, [{ dma: 4096, size: 512 }]),
      () => disk.readDmaBulk([0], null as never),
      () => disk.readDmaBulk([], []),
      () => disk.readDmaBulk(new Array<number>(3e7), []),
      () => disk.readDmaBulk([0], [{ dma: 4096, size: 2 ** 50 }]),
      () => disk.readDma(0, { dma: 4096, size: 2 ** 50 }),
      () =>
        disk.writeDmaBulk(
          Array.from({ length: 65_536 }, () => 0),
          Array.from({ length: 65_536 }, () => ({ dma: 4096, size: 2 ** 34 })),
        ),
      () => disk.readDmaBulk([0, 8], [{ dma: 4096, size: 512 }]),
      () =>
        disk.readDmaBulk(
          [0],
          [
            { dma: 4096, size: 512 },
            { dma: 4096, size: 512 },
          ],
        ),
      () =>
        disk.readDmaBulk(
          [0, -1],
          [
            { dma: 4096, size: 512 },
            { dma: 8192, size: 512 },
          ],
        ),
      () =>
        disk.writeDmaBulk(
          [0, 1],
          [
            { dma: 4096, size: 512 },
            { dma: 8192, size: 100 },
          ],
        ),
      () => disk.writeDmaBulk([0], [{ dma: 4096, size: 512 }], null as never),
      () => nvme.io({ opcode: 256 }),
      () => nvme.io({ opcode: 1, cdw10: 2 ** 32 }),
      () => nvme.admin(null as never),
      () => nvme.admin({ opcode: 6 }, new Uint8Array(2)),
      () => nvme.admin({ opcode: 6 }, new Uint8Array(4096), 'both' as never),
    ];
    for (const call of wrong) throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', call);
    const rejected: (() => Promise<unknown>)[] = [
      () => nvme.namespace(0),
      () => disk.writeZeroes(0, 0),
      () => disk.writeZeroes(-1, 1),
      () => disk.writeZeroes(0, 1, null as never),
      () => disk.deallocate(null as never),
      () => disk.deallocate([]),
      () => disk.deallocate([null as never]),
      () => disk.deallocate([{ lba: 0, blocks: 1 }, 7 as never]),
      () => disk.deallocate(Array.from({ length: 257 }, () => ({ lba: 0, blocks: 1 }))),
      () => disk.deallocate([{ lba: 0, blocks: 0 }]),
      () => NvmeController.open(pci, null as never),
      () => NvmeController.open(pci, { queues: 0 }),
      () => NvmeController.open(pci, { queueDepth: 1025 }),
      () => NvmeController.open(pci, { timeout: 0 }),
      () => NvmeController.open(pci, { bounceMemory: 4096 }),
    ];
    for (const call of rejected) await rejectsCode('ERR_DMAPOOL_INVALID_ARGUMENT', call());
    assert.deepEqual(nvme.statistics().submitted, submitted);
    await closeNvme(bench);
  });

  void it('refuses other functions', async (t) => {
    const { machine } = await startBench(t, { devices: ['edu,id=edu0'] });
    const edu = await machine.open('edu0');
    await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_UNSUPPORTED', NvmeController.open(edu));
    await edu.close();
  });

  void it('keeps the maximum number of commands in flight, and queues the others', async (t) => {
    const bench = await startNvme(t, { queues: 1, queueDepth: 1024, bounceMemory: 4 * MIB });
    const { nvme, disk } = bench;
    assert.equal(nvme.queueDepth, 1024);
    const model = new Random(11).fill(Buffer.alloc(disk.size)) as Buffer;
    await disk.write(0, model);
    const random = new Random(12);
    // Three times as many as there is room for, and more data than there is memory.
    const reads = Array.from({ length: 3000 }, async (_, i) => {
      const buffer = Buffer.alloc(i % 10 === 0 ? 64 * 1024 : 512);
      const lba = random.below(disk.blocks - buffer.length / 512);
      await disk.read(lba, buffer);
      assert.ok(buffer.equals(model.subarray(lba * 512, lba * 512 + buffer.length)));
    });
    assert.equal(nvme.statistics().load, 3000);
    await Promise.all(reads);
    const { highWater } = nvme.pools[0]!.statistics();
    assert.ok(highWater <= 1024 && highWater > 512, `4 MiB of pages at most: ${String(highWater)}`);
    await closeNvme(bench);
  });

  void it('keeps fewer commands in flight if the controller has fewer slots', async (t) => {
    const { machine } = await startBench(t, { device: { max_ioqpairs: 1 } });
    const pci = await machine.open('nvme0');
    const nvme = await NvmeController.open(pci, { queues: 8, queueDepth: 1 });
    assert.equal(nvme.queues, 1);
    const disk = await nvme.namespace(1);
    await Promise.all(Array.from({ length: 20 }, (_, i) => disk.read(i, new Uint8Array(512))));
    await nvme.close();
    await pci.close();
  });

  for (const interrupts of [
    { kinds: ['poll'], pollInterval: 0 },
    { kinds: ['poll'], pollInterval: 3 },
    { kinds: ['intx'] },
    { kinds: ['msix'] },
    { kinds: ['msix'], busyPoll: 1 },
  ] as const) {
    void it(`works with ${JSON.stringify(interrupts)}`, async (t) => {
      const bench = await startNvme(t, { interrupts, queues: 2 });
      const { nvme, disk } = bench;
      assert.equal(nvme.interruptKind, interrupts.kinds[0]);
      const data = new Random(2).fill(Buffer.alloc(4 * MIB)) as Buffer;
      await disk.write(0, data);
      const back = Buffer.alloc(data.length);
      await disk.read(0, back);
      assert.ok(back.equals(data));
      await closeNvme(bench);
    });
  }

  void it('can be started again on the same function', async (t) => {
    const { machine } = await startBench(t, {});
    const pci = await machine.open('nvme0');
    for (let round = 0; round < 3; round++) {
      const nvme = await NvmeController.open(pci, { queues: 1 + round });
      const disk = await nvme.namespace(1);
      await disk.write(round, new Uint8Array(512).fill(round + 1));
      await nvme.close();
      assert.equal(await pci.isBusMaster(), false);
      await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_CLOSED', disk.read(0, new Uint8Array(512)));
      await rejectsAs(NvmeError, 'ERR_DMAPOOL_NVME_CLOSED', nvme.namespaceIds());
    }
    // A controller that an earlier driver left running.
    await NvmeController.open(pci);
    await pci.close();
    const again = await machine.open('nvme0');
    const nvme = await NvmeController.open(again);
    const back = new Uint8Array(3 * 512);
    await (await nvme.namespace(1)).read(0, back);
    assert.deepEqual([back[0], back[512], back[1024]], [1, 2, 3]);
    await nvme.close();
    await again.close();
  });
});
