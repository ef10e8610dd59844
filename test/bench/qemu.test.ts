import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { shareOf } from '../../bench/nvme/profile.ts';
import { withoutQemu } from '../qemu/qemu.ts';

void test('samples in alloc and free and their callees are counted; idle ones are not', () => {
  const node = (id: number, functionName: string, file: string, hitCount: number, children: number[] = []): object => ({
    id,
    hitCount,
    children,
    callFrame: {
      functionName,
      url: file === '' ? '' : `file:///x/dist/src/${file}.js`,
      scriptId: '',
      lineNumber: 0,
      columnNumber: 0,
    },
  });
  const nodes = [
    node(1, '(root)', '', 0, [2, 3, 7]),
    node(2, '(idle)', '', 900),
    node(3, 'map', 'nvme/data', 60, [4, 6]),
    node(4, 'allocBulk', 'pool/pool', 5, [5]),
    node(5, 'refill', 'pool/unshared-store', 3),
    node(6, 'alloc', 'nvme/data', 20),
    node(7, 'tryAllocIndex', 'pool/hot-path', 12),
  ] as unknown as Parameters<typeof shareOf>[0]['nodes'];
  assert.deepEqual(shareOf({ nodes, startTime: 0, endTime: 0 }), { share: 0.2, samples: 100 });
});

void test('bench:qemu prints the driver’s throughput and the cost of its pools', { skip: withoutQemu }, () => {
  const program = fileURLToPath(new URL('../../bench/nvme/qemu.js', import.meta.url));
  const { stdout, stderr, error } = spawnSync(process.execPath, [program, '--seconds', '0.1'], { encoding: 'utf8' });
  assert.equal(error, undefined);
  // The figures themselves need a quiet machine.
  assert.match(stdout, /^4 KiB +1 +[\d,]+ .* %$/m, stderr);
  assert.match(stdout, /^4 KiB +32 +[\d,]+ .* %$/m);
  assert.match(stdout, /^Allocation and free take at most \d+\.\d\d % of the CPU time: (less|MORE) than 2\.00 %\.$/m);
  assert.equal(stderr, '');
});
