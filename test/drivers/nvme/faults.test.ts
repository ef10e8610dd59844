/** Memory runs out at every allocation of the NVMe driver. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { DmaError } from 'dmapool';
import { NvmeController } from 'dmapool/drivers/nvme';
import { withoutQemu } from '../../qemu/qemu.ts';
import { FaultySource } from '../../support/faulty-memory.ts';
import { RecordingLog } from '../../support/log.ts';
import { assertIdle, startBench } from './fixture.ts';
import { MIB } from '../../support/sizes.ts';
import { Random } from '../../support/random.ts';

void describe('memory that runs out', { skip: withoutQemu }, () => {
  for (const how of ['none', 'throw'] as const) {
    void it(`is reported at every call, and nothing is lost (${how})`, async (t) => {
      const { machine } = await startBench(t, { size: 4 * MIB, device: { mdts: 10 } });
      const isTheFault = (error: unknown): boolean =>
        how === 'none'
          ? error instanceof DmaError && error.code === 'ERR_DMAPOOL_NO_MEMORY'
          : error instanceof Error && error.message === 'the source broke';
      const random = new Random(1);
      const places = { start: 0, work: 0 };
      for (let failing = 0; ; failing++) {
        const memory = new FaultySource(machine.memory, (call) => (call === failing ? how : 'ok'));
        const log = new RecordingLog();
        const pci = await machine.open('nvme0', { memory, log });
        let nvme: NvmeController | null = null;
        try {
          nvme = await NvmeController.open(pci, { queues: 2, queueDepth: 4 });
        } catch (error) {
          assert.ok(isTheFault(error), `call ${String(failing)}: ${String(error)}`);
          assert.equal(memory.live.size, 0, 'all memory is freed, without a close too');
          assert.equal(await pci.isBusMaster(), false);
          places.start++;
        }
        if (nvme !== null) {
          const driver = nvme;
          let told = 0;
          // A call that failed for lack of memory succeeds the second time.
          const twice = async <T>(action: () => Promise<T>): Promise<T> => {
            try {
              return await action();
            } catch (error) {
              assert.ok(isTheFault(error), `call ${String(failing)}: ${String(error)}`);
              assertIdle(driver);
              told++;
              return action();
            }
          };
          const disk = await twice(() => driver.namespace(1));
          for (const size of [512, 5 * 4096, 40 * 4096]) {
            const data = random.fill(new Uint8Array(size));
            const back = new Uint8Array(size);
            await twice(() => disk.write(failing, data));
            await twice(() => disk.read(failing, back));
            assert.deepEqual(back, data);
          }
          // A chain of two lists, for memory that is not counted here.
          const request = { device: pci.device, size: 600 * 4096, node: -1 };
          const direct = machine.memory.allocCoherent(request)!;
          await twice(() => disk.writeDma(0, direct));
          machine.memory.freeCoherent(direct);
          await twice(() => disk.deallocate([{ lba: 0, blocks: 8 }]));
          await twice(() => disk.flush());
          assert.equal(told, memory.failed, 'each failure is reported once');
          assert.equal(nvme.statistics().resets, 0);
          assertIdle(nvme);
          places.work += told;
          await nvme.close();
        }
        assert.equal(memory.live.size, 0);
        await pci.close();
        assert.doesNotMatch(log.text, /busy/);
        if (memory.failed === 0) break;
      }
      // Admin queue pair, the first page of data, two I/O queue pairs; then pages of data and of lists: a small one,
      // and two of a page.
      assert.equal(places.start, 7);
      assert.equal(places.work, 39 + 1 + 2);
    });
  }

  void it('fails some commands, and the others succeed', async (t) => {
    const { machine } = await startBench(t, { size: 8 * MIB });
    const random = new Random(99);
    const memory = new FaultySource(machine.memory, (call) => (call > 10 && random.below(50) === 0 ? 'none' : 'ok'));
    const pci = await machine.open('nvme0', { memory });
    const nvme = await NvmeController.open(pci, { queues: 2, queueDepth: 32 });
    const disk = await nvme.namespace(1);
    const outcomes = { right: 0, failed: 0 };
    const worker = async (_: unknown, i: number): Promise<void> => {
      const data = random.fill(new Uint8Array(512 * 1024));
      const back = new Uint8Array(data.length);
      for (let round = 0; round < 20; round++) {
        const size = 512 * (1 + random.below(1024));
        try {
          await disk.write(i * 1024, data.subarray(0, size));
          await disk.read(i * 1024, back.subarray(0, size));
          assert.ok(Buffer.compare(data.subarray(0, size), back.subarray(0, size)) === 0);
          outcomes.right++;
        } catch (error) {
          assert.ok(error instanceof DmaError && error.code === 'ERR_DMAPOOL_NO_MEMORY', String(error));
          outcomes.failed++;
        }
      }
    };
    await Promise.all(Array.from({ length: 16 }, worker));
    assert.ok(outcomes.right > 0 && outcomes.failed > 0, JSON.stringify(outcomes));
    assertIdle(nvme);
    await nvme.close();
    assert.equal(memory.live.size, 0);
    await pci.close();
  });
});
