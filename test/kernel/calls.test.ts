/** Results of the calls with Linux's names; errors where Linux's behaviour is undefined. */
import assert from 'node:assert/strict';
import { it } from 'node:test';
import { Device, dmaBitMask, DmaPool, HeapMemory, lower32Bits, upper32Bits } from 'dmapool';
import * as kernel from 'dmapool/kernel';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';
import { throwsCode } from '../support/errors.ts';

function device(): Device {
  return new Device({ name: 'dev', memory: new HeapMemory(), log: new RecordingLog() });
}

it('a pool is a DmaPool, and both interfaces can be mixed', () => {
  const pool = kernel.dma_pool_create('p', device(), 64, 64, 0)!;
  assert.ok(pool instanceof DmaPool);
  const index = pool.allocIndex();
  kernel.dma_pool_free(pool, pool.blockAt(pool.dmaOf(index)), pool.dmaOf(index));
  assert.equal(pool.statistics().active, 0);
});

it('the handle receives the address; a failed call does not change it', () => {
  const dev = new Device({ name: 'dev', memory: new HeapMemory({ limit: 4096 }), log: new RecordingLog() });
  const pool = kernel.dma_pool_create('p', dev, 4096, 0, 0)!;
  const handle = { dma: 0 };
  const block = kernel.dma_pool_alloc(pool, kernel.GFP_KERNEL, handle)!;
  assert.equal(handle.dma, block.dma);
  assert.notEqual(handle.dma, 0);
  handle.dma = 5;
  assert.equal(kernel.dma_pool_alloc(pool, kernel.GFP_KERNEL, handle), null);
  assert.equal(kernel.dma_alloc_coherent(dev, 4096, handle, kernel.GFP_KERNEL), null);
  assert.equal(handle.dma, 5);
  kernel.dma_pool_free(pool, block, block.dma);
  assert.notEqual(kernel.dma_pool_alloc(pool, kernel.GFP_KERNEL, null), null);
});

it('GFP_ATOMIC opens pages, as in Linux', () => {
  const pool = kernel.dma_pool_create('p', device(), 4096, 0, 0)!;
  for (const flags of [kernel.GFP_ATOMIC, kernel.GFP_NOWAIT, kernel.GFP_NOIO, kernel.GFP_NOFS, kernel.GFP_DMA]) {
    assert.notEqual(kernel.dma_pool_alloc(pool, flags), null);
  }
  assert.equal(pool.statistics().pages, 5);
});

it('zeroes exactly if the flags or the call require it', () => {
  const pool: DmaPool = kernel.dma_pool_create('p', device(), 64, 0, 0)!;
  const first = (call: () => ReturnType<typeof kernel.dma_pool_alloc>): number => {
    const block = call()!;
    const byte = block.bytes[0]!;
    block.bytes.fill(9);
    kernel.dma_pool_free(pool, block);
    return byte;
  };
  assert.equal(
    first(() => kernel.dma_pool_alloc(pool, kernel.GFP_KERNEL)),
    0,
  );
  assert.equal(
    first(() => kernel.dma_pool_alloc(pool, kernel.GFP_KERNEL)),
    9,
  );
  assert.equal(
    first(() => kernel.dma_pool_zalloc(pool, kernel.GFP_ATOMIC)),
    0,
  );
  assert.equal(
    first(() => kernel.dma_pool_alloc(pool, kernel.GFP_KERNEL | kernel.__GFP_ZERO)),
    0,
  );
});

it('pages come from the requested node, or from the device’s', () => {
  const memory = new FaultyMemory();
  const dev = new Device({ name: 'dev', memory, numaNode: 3 });
  kernel.dma_pool_alloc(kernel.dma_pool_create('p', dev, 64, 0, 0)!, kernel.GFP_KERNEL);
  kernel.dma_pool_alloc(kernel.dma_pool_create_node('p', dev, 64, 0, 0, 1)!, kernel.GFP_KERNEL);
  kernel.dma_pool_alloc(kernel.dma_pool_create_node('p', dev, 64, 0, 0, kernel.NUMA_NO_NODE)!, kernel.GFP_KERNEL);
  assert.deepEqual(
    memory.requests.map(({ node }) => node),
    [3, 1, -1],
  );
});

it('masks: 0 or -EIO; C’s constant for 64 bits is accepted', () => {
  const dev = device();
  assert.equal(kernel.dma_set_mask_and_coherent(dev, kernel.DMA_BIT_MASK(64)), 0);
  assert.equal(kernel.dma_set_mask_and_coherent(dev, 0xffff_ffff_ffff_f000), 0);
  assert.equal(dev.dmaMask, dmaBitMask(64));
  kernel.dma_alloc_coherent(dev, 4096, null, kernel.GFP_KERNEL);
  assert.equal(kernel.dma_set_mask_and_coherent(dev, dmaBitMask(32)), -kernel.EIO);
  for (const mask of [0, -1, NaN, 1.5, '1' as unknown as number]) {
    assert.equal(kernel.dma_set_mask_and_coherent(dev, mask), -kernel.EIO, String(mask));
  }
  assert.equal(dev.dmaMask, dmaBitMask(64));
});

it('attributes can be added, read and removed', () => {
  const dev = device();
  const speed = kernel.DEVICE_ATTR_RO('speed', (of, attr) => kernel.sysfs_emit(`${of.name} ${attr.name}\n`));
  assert.equal(kernel.device_create_file(dev, speed), 0);
  assert.equal(dev.readAttribute('speed'), 'dev speed\n');
  assert.equal(kernel.device_create_file(dev, speed), -kernel.EEXIST);
  assert.equal(
    kernel.device_create_file(
      dev,
      kernel.DEVICE_ATTR_RO('a/b', () => ''),
    ),
    -kernel.EINVAL,
  );
  assert.equal(kernel.device_create_file(dev, null as never), -kernel.EINVAL);
  kernel.device_remove_file(dev, speed);
  kernel.device_remove_file(dev, speed);
  assert.equal(dev.readAttribute('speed'), undefined);
  assert.equal(kernel.sysfs_emit('x'.repeat(5000)).length, 4095);
  assert.equal(kernel.sysfs_emit(`${'x'.repeat(4094)}é`).length, 4094, 'no half characters');
});

it('no pool if the device has another attribute `pools`, as in Linux', () => {
  const dev = device();
  dev.addAttribute('pools', () => 'mine');
  assert.equal(kernel.dma_pool_create('p', dev, 64, 0, 0), null);
  assert.equal(dev.readAttribute('pools'), 'mine');
});

it('lower and upper bits of addresses', () => {
  assert.equal(kernel.lower_32_bits, lower32Bits);
  assert.equal(kernel.upper_32_bits(2 ** 40 + 5), upper32Bits(2 ** 40 + 5));
});

it('a typed error where Linux’s behaviour is undefined', () => {
  const dev = device();
  const pool = kernel.dma_pool_create('p', dev, 64, 0, 0)!;
  const bad: unknown[] = [undefined, null, 7, 'pool', {}, dev];
  for (const value of bad) {
    const noPool = value as DmaPool;
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => kernel.dma_pool_alloc(noPool, kernel.GFP_KERNEL));
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      kernel.dma_pool_free(noPool, null, 0);
    });
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      kernel.dmam_pool_destroy(noPool);
    });
    if (value !== null && value !== undefined) {
      throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
        kernel.dma_pool_destroy(noPool);
      });
    }
    if (value === dev) continue;
    const noDevice = value as Device;
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => kernel.dma_alloc_coherent(noDevice, 64, null, kernel.GFP_KERNEL));
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      kernel.dma_free_coherent(noDevice, 64, null, 0);
    });
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => kernel.dma_set_mask_and_coherent(noDevice, 1));
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () =>
      kernel.device_create_file(
        noDevice,
        kernel.DEVICE_ATTR_RO('x', () => ''),
      ),
    );
    throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => {
      kernel.device_remove_file(noDevice, { name: 'x', show: () => '' });
    });
    assert.equal(kernel.dma_pool_create('p', value as Device, 64, 0, 0), null, 'NULL in Linux too');
  }
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => kernel.dma_pool_alloc(pool, 'kernel' as never));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => kernel.dma_alloc_coherent(dev, 64, null, undefined as never));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => kernel.dma_alloc_coherent(dev, 0, null, kernel.GFP_KERNEL));
  throwsCode('ERR_DMAPOOL_INVALID_ARGUMENT', () => kernel.sysfs_emit(7 as never));
  kernel.dma_pool_destroy(pool);
  throwsCode('ERR_DMAPOOL_DESTROYED', () => kernel.dma_pool_alloc(pool, kernel.GFP_KERNEL));
  assert.equal(dev.readAttribute('pools'), undefined);
});

it('errors of a memory source are thrown, and no block is lost', () => {
  const memory = new FaultyMemory();
  const dev = new Device({ name: 'dev', memory, log: new RecordingLog() });
  const pool = kernel.dma_pool_create('p', dev, 64, 0, 0)!;
  memory.onAlloc = () => 'throw';
  assert.throws(() => kernel.dma_pool_alloc(pool, kernel.GFP_KERNEL), /the source broke/);
  assert.throws(() => kernel.dma_alloc_coherent(dev, 64, null, kernel.GFP_KERNEL), /the source broke/);
  memory.onAlloc = () => 'ok';
  const block = kernel.dma_pool_alloc(pool, kernel.GFP_KERNEL)!;
  kernel.dma_pool_destroy(pool);
  memory.onFree = () => 'throw';
  assert.throws(() => {
    kernel.dma_pool_free(pool, block, block.dma);
  }, /the source broke/);
  assert.equal(memory.live.size, 0);
});
