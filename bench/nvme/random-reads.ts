/** The load of the NVMe benchmarks: random reads at a fixed depth. */
import type { NvmeNamespace } from 'dmapool/drivers/nvme';

export interface Reads {
  readonly requests: number;
  readonly seconds: number;
  /** CPU time of this process, all its threads, in microseconds. */
  readonly cpu: NodeJS.CpuUsage;
}

/** Keeps `depth` reads of `bytes` in flight for `seconds`. */
export async function readAtRandom(disk: NvmeNamespace, depth: number, bytes: number, seconds: number): Promise<Reads> {
  const places = disk.size / bytes;
  const blocks = bytes / disk.blockSize;
  let requests = 0;
  const cpu = process.cpuUsage();
  const begin = performance.now();
  const end = begin + seconds * 1000;
  const worker = async (): Promise<void> => {
    const buffer = new Uint8Array(bytes);
    while (performance.now() < end) {
      await disk.read(Math.floor(Math.random() * places) * blocks, buffer);
      requests++;
    }
  };
  await Promise.all(Array.from({ length: depth }, worker));
  return { requests, seconds: (performance.now() - begin) / 1000, cpu: process.cpuUsage(cpu) };
}
