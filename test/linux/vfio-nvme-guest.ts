/**
 * Tests of the NVMe driver through VFIO; run as root in the virtual machine, with the disk that vfio-nvme.test.ts
 * lists.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { DmaPool } from 'dmapool';
import { NvmeController, NvmeError, type NvmeNamespace, type NvmeOptions } from 'dmapool/drivers/nvme';
import { bindToVfio, unbindFromVfio, VfioDevice, type VfioMemoryOptions } from 'dmapool/linux';
import { assertIdle } from '../drivers/nvme/fixture.ts';
import { MIB } from '../support/sizes.ts';
import { Traffic } from '../drivers/nvme/traffic.ts';
import { diskAppears, FIRST as NVME, iommuFaults, within10s, writeInBackground } from './vfio-guest-support.ts';
import { Random } from '../support/random.ts';

const DISK = '/dev/nvme0n1';

interface Bench {
  readonly vfio: VfioDevice;
  readonly nvme: NvmeController;
  readonly disk: NvmeNamespace;
}

async function withNvme(
  { memory = {}, ...options }: NvmeOptions & { memory?: VfioMemoryOptions },
  use: (bench: Bench) => Promise<void>,
): Promise<void> {
  const vfio = await VfioDevice.open(NVME, { memory: { size: 16 * MIB, ...memory } });
  try {
    const nvme = await NvmeController.open(vfio.pci, { bounceMemory: 4 * MIB, ...options });
    try {
      await use({ vfio, nvme, disk: await nvme.namespace(1) });
    } finally {
      await nvme.close();
      for (const pool of nvme.pools) assert.equal(pool.statistics().active, 0, pool.name);
    }
  } finally {
    await vfio.close();
  }
}

async function readAll(disk: NvmeNamespace): Promise<Buffer> {
  const all = Buffer.alloc(disk.size);
  for (let at = 0; at < all.length; at += MIB) await disk.read(at / disk.blockSize, all.subarray(at, at + MIB));
  return all;
}

function sha256(data: Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

/** The digest of the disk as the kernel's driver reads it, without caches. */
async function kernelsSha256(): Promise<string> {
  await diskAppears(DISK);
  const out = execFileSync('sh', ['-c', `dd if=${DISK} bs=1M iflag=direct 2>/dev/null | sha256sum`], {
    encoding: 'utf8',
  });
  return out.split(' ')[0]!;
}

void describe('NVMe through VFIO', () => {
  before(() => {
    bindToVfio([NVME]);
  });
  after(() => {
    unbindFromVfio([NVME]);
  });

  const kinds = [
    { name: 'MSI-X', kind: 'msix', interrupts: {}, memory: {} },
    { name: 'MSI-X, busy polling', kind: 'msix', interrupts: { busyPoll: 1 }, memory: {} },
    { name: 'INTx, strict', kind: 'intx', interrupts: { kinds: ['intx'] }, memory: { strict: true } },
    { name: 'polling', kind: 'poll', interrupts: { kinds: ['poll'], pollInterval: 0 }, memory: { hugepages: false } },
  ] as const;
  for (const { name, kind, interrupts, memory } of kinds) {
    void it(`leaves the disk in the state of the model after random reads and writes (${name})`, (t) =>
      withNvme({ queues: 2, interrupts, memory }, async ({ nvme, disk }) => {
        const seed = Number(process.env['DMAPOOL_SEED'] ?? Date.now() % 2 ** 31);
        t.diagnostic(`DMAPOOL_SEED=${String(seed)}`);
        assert.equal(nvme.interruptKind, kind);
        const random = new Random(seed);
        const model = await readAll(disk);
        const traffic = new Traffic(disk, random, model, 256 * 1024);
        const worker = async (): Promise<void> => {
          while (traffic.transfers < 500) {
            await traffic.operation();
            await Promise.resolve();
          }
        };
        await Promise.all(Array.from({ length: 1 + random.below(32) }, worker));
        assertIdle(nvme);
        assert.equal(sha256(await readAll(disk)), sha256(model));
        const { resets, timeouts } = nvme.statistics();
        assert.deepEqual({ resets, timeouts }, { resets: 0, timeouts: 0 });
      }));
  }

  void it('leaves the disk to the kernel, and each driver reads what the other one wrote', async () => {
    let written = '';
    await withNvme({}, async ({ disk }) => {
      const data = new Random(Date.now()).fill(Buffer.alloc(disk.size));
      for (let at = 0; at < data.length; at += MIB) await disk.write(at / disk.blockSize, data.subarray(at, at + MIB));
      await disk.flush();
      written = sha256(data);
    });
    unbindFromVfio([NVME]);
    assert.equal(await kernelsSha256(), written);

    execFileSync('sh', ['-c', `dd if=/dev/urandom of=${DISK} bs=1M oflag=direct 2>/dev/null || true`]);
    const kernels = await kernelsSha256();
    assert.notEqual(kernels, written);
    bindToVfio([NVME]);
    await withNvme({}, async ({ disk }) => {
      assert.equal(sha256(await readAll(disk)), kernels);
    });
  });

  void it('is blocked by the IOMMU at an unmapped address, and continues otherwise', () =>
    withNvme({ memory: { strict: true } }, async ({ vfio, nvme, disk }) => {
      const pool = DmaPool.create('mine', vfio.pci.device, { size: 4096, align: 4096 });
      const block = pool.alloc();
      const { bytes, dma } = block;
      bytes.fill(0x5a);
      await disk.write(0, Buffer.alloc(4096, 0x11));
      pool.free(block);
      pool.destroy();
      const before = iommuFaults().length;
      // A controller may or may not report the error: QEMU's does for commands and lists, not for data.
      await disk.readDma(0, { dma, size: 4096 }).catch((error: unknown) => {
        assert.ok(error instanceof NvmeError, String(error));
      });
      assert.ok(
        bytes.every((byte) => byte === 0x5a),
        'released memory is unchanged',
      );
      assert.ok(await within10s(() => iommuFaults().length > before));
      assert.ok(iommuFaults().some(({ device, address }) => device === '00:10.0' && address === dma));
      // All other commands continue.
      const buffer = Buffer.alloc(4096);
      await disk.read(0, buffer);
      assert.ok(buffer.every((byte) => byte === 0x11));
      assertIdle(nvme);
    }));

  void it('reports to the driver that its memory was closed', async () => {
    const vfio = await VfioDevice.open(NVME, { memory: { size: 16 * MIB } });
    const nvme = await NvmeController.open(vfio.pci, { timeout: 500, bounceMemory: 4 * MIB });
    const disk = await nvme.namespace(1);
    const buffer = Buffer.alloc(4096);
    await disk.read(0, buffer);
    const before = iommuFaults().length;
    vfio.memory.close();
    await assert.rejects(disk.read(0, buffer), (error) => error instanceof Error && 'code' in error);
    assert.ok(await within10s(() => iommuFaults().length > before));
    await nvme.close();
    await vfio.close();
    // The device still works.
    await withNvme({}, async (bench) => {
      await bench.disk.read(0, buffer);
    });
  });

  void it('reports that the kernel requested release', async () => {
    const vfio = await VfioDevice.open(NVME, { memory: { size: 16 * MIB } });
    const nvme = await NvmeController.open(vfio.pci, { bounceMemory: 4 * MIB });
    const disk = await nvme.namespace(1);
    // Written directly, since unbindFromVfio would refuse; the write returns when this process has released the device.
    const child = writeInBackground(NVME, '/sys/bus/pci/drivers/vfio-pci/unbind');
    assert.ok(await within10s(() => vfio.pci.removed.aborted));
    await assert.rejects(disk.read(0, Buffer.alloc(4096)), { code: 'ERR_DMAPOOL_PCI_RELEASE_REQUESTED' });
    await setTimeout(100);
    assert.equal(child.exitCode, null, 'the kernel waits');
    await nvme.close();
    await vfio.close();
    assert.ok(await within10s(() => child.exitCode === 0));
    writeFileSync('/sys/bus/pci/drivers_probe', NVME);
    bindToVfio([NVME]);
  });
});
