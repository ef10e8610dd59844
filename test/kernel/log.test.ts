/** Lines of the calls with Linux's names on the device's log: Linux's text, and below it ours. */
import assert from 'node:assert/strict';
import { beforeEach, describe, it } from 'node:test';
import { Device, type DmaBlock, DmaPool, HeapMemory } from 'dmapool';
import {
  __GFP_NOWARN,
  __GFP_ZERO,
  dma_alloc_coherent,
  dma_free_coherent,
  dma_pool_alloc,
  dma_pool_create,
  dma_pool_destroy,
  dma_pool_free,
  dma_pool_zalloc,
  dmam_pool_create,
  dmam_pool_destroy,
  GFP_ATOMIC,
  GFP_DMA32,
  GFP_KERNEL,
  GFP_NOIO,
} from 'dmapool/kernel';
import { FaultyMemory } from '../support/faulty-memory.ts';
import { RecordingLog } from '../support/log.ts';

describe('lines on the log', () => {
  let log: RecordingLog;
  let device: Device;
  let qtds: DmaPool<'ehci_qtd'>;

  beforeEach(() => {
    log = new RecordingLog();
    device = new Device({ name: '0000:00:1d.7', memory: new HeapMemory({ limit: 8 * 4096 }), log });
    qtds = dma_pool_create('ehci_qtd', device, 96, 32, 4096)!;
  });

  function lines(): string[] {
    return log.text.split('\n');
  }

  /** As Linux's `%pad`. */
  function pad(dma: number): string {
    return `0x${dma.toString(16).padStart(16, '0')}`;
  }

  /** As Linux's `%p`. */
  function pointer(block: DmaBlock): string {
    return block.bytes.byteOffset.toString(16).padStart(16, '0');
  }

  it('busy at destroy, with the allocated blocks below it', () => {
    const qtd = dma_pool_alloc(qtds, GFP_KERNEL)!;
    dma_pool_destroy(qtds);
    assert.deepEqual(lines(), [
      'error 0000:00:1d.7: dma_pool_destroy ehci_qtd busy',
      `  1 still out: block 0 at 0x${qtd.dma.toString(16)}`,
    ]);
    dma_pool_destroy(qtds);
    dma_pool_free(qtds, qtd, qtd.dma);
    assert.equal(lines().length, 2, 'once, and the late free is fine');
  });

  it('a long name, cut to 31 bytes as in Linux', () => {
    const pool = dma_pool_create('n'.repeat(40), device, 64, 0, 0)!;
    const block = dma_pool_alloc(pool, GFP_KERNEL)!;
    dma_pool_free(pool, block, block.dma + 1);
    dma_pool_destroy(pool);
    const name = 'n'.repeat(31);
    assert.match(log.text, new RegExp(`: dma_pool_free ${name}, .* vaddr\\)`));
    assert.match(log.text, new RegExp(`: dma_pool_destroy ${name} busy\n`));
  });

  it('busy at detach, for a managed pool', () => {
    dma_pool_alloc(dmam_pool_create('ehci_qh', device, 96, 32, 4096)!, GFP_KERNEL);
    device.detach();
    assert.equal(lines()[0], 'error 0000:00:1d.7: dma_pool_destroy ehci_qh busy');
  });

  it('already free', () => {
    const qtd = dma_pool_alloc(qtds, GFP_KERNEL)!;
    const { dma } = qtd;
    dma_pool_free(qtds, qtd, dma);
    dma_pool_free(qtds, qtd, dma);
    dma_pool_free(qtds, qtd);
    assert.equal(lines()[0], `error 0000:00:1d.7: dma_pool_free ehci_qtd, dma ${pad(dma)} already free`);
    assert.match(lines()[1]!, /^ {2}0000:00:1d.7: pool ehci_qtd: block 0 .*not allocated|free/);
    assert.equal(lines()[2], lines()[0]);
    assert.equal(qtds.statistics().active, 0);
  });

  it('bad dma and bad vaddr', () => {
    const qtd = dma_pool_alloc(qtds, GFP_KERNEL)!;
    const other = dma_pool_alloc(qtds, GFP_KERNEL)!;
    const qhs = dma_pool_create('ehci_qh', device, 96, 32, 4096)!;
    const qh: DmaBlock = dma_pool_alloc(qhs, GFP_KERNEL)!;
    const any: DmaPool = qtds;
    const expect = (line: string): void => {
      assert.equal(log.lines.at(-1)!.split('\n')[0], `error 0000:00:1d.7: dma_pool_free ehci_qtd, ${line}`);
      assert.equal(qtds.statistics().active, 2, 'nothing changed');
      assert.equal(qhs.statistics().active, 1, 'nothing changed');
    };
    dma_pool_free(qtds, qtd, 0xdead_0000);
    expect(`${pointer(qtd)}/0x00000000dead0000 (bad dma)`);
    dma_pool_free(qtds, qtd, other.dma);
    expect(`${pointer(qtd)} (bad vaddr)/${pad(other.dma)}`);
    dma_pool_free(any, qh, qh.dma);
    expect(`${pointer(qh)}/${pad(qh.dma)} (bad dma)`);
    assert.match(log.lines.at(-1)!, /belongs to .*pool ehci_qh/);
    dma_pool_free(qtds, null, 0);
    expect('(null)/0x0000000000000000 (bad dma)');
    dma_pool_free(qtds, null, qtd.dma);
    expect(`(null) (bad vaddr)/${pad(qtd.dma)}`);
    dma_pool_free(qtds, 7 as never, NaN);
    expect('(efault)/(null) (bad dma)');
  });

  it('bad dma, for a pool whose memory was freed', () => {
    const qtd = dma_pool_alloc(qtds, GFP_KERNEL)!;
    const { dma } = qtd;
    dma_pool_destroy(qtds);
    device.reclaim();
    dma_pool_free(qtds, qtd, dma);
    assert.match(log.lines.at(-1)!, /^error 0000:00:1d.7: dma_pool_free ehci_qtd, .*\(bad dma\)\n {2}.*was destroyed/);
  });

  it('page allocation failure, with order and flags; none with __GFP_NOWARN', () => {
    while (dma_pool_alloc(qtds, GFP_KERNEL | __GFP_NOWARN) !== null);
    assert.deepEqual(log.lines, []);
    assert.equal(dma_pool_alloc(qtds, GFP_ATOMIC), null);
    assert.equal(dma_pool_zalloc(qtds, GFP_KERNEL | GFP_DMA32), null);
    assert.equal(dma_alloc_coherent(device, 5 * 4096, null, GFP_NOIO), null);
    assert.equal(dma_alloc_coherent(device, 4096, null, GFP_KERNEL | __GFP_NOWARN), null);
    assert.equal(dma_alloc_coherent(device, 4096, null, __GFP_ZERO | 0x8000), null);
    const line = 'warn 0000:00:1d.7: page allocation failure:';
    assert.deepEqual(lines(), [
      `${line} order:0, mode:0x820(GFP_ATOMIC), nodemask=(null)`,
      `${line} order:0, mode:0xcc4(GFP_KERNEL|GFP_DMA32), nodemask=(null)`,
      `${line} order:3, mode:0xc00(GFP_NOIO), nodemask=(null)`,
      `${line} order:0, mode:0x8000(0x8000), nodemask=(null)`,
    ]);
  });

  it('nothing at the limit of a pool, which Linux does not have', () => {
    const limited = DmaPool.create('limited', device, { size: 64, maxBlocks: 1 });
    dma_pool_alloc(limited, GFP_KERNEL);
    assert.equal(dma_pool_alloc(limited, GFP_KERNEL), null);
    assert.deepEqual(log.lines, []);
  });

  it('nothing where Linux logs nothing: create with invalid arguments, destroy of null', () => {
    assert.equal(dma_pool_create('p', device, 0, 0, 0), null);
    assert.equal(dma_pool_create('p', null, 64, 0, 0), null);
    dma_pool_destroy(null);
    dma_pool_destroy(undefined);
    dma_free_coherent(device, 64, null, 0);
    assert.deepEqual(log.lines, []);
  });

  it('memory that the device can’t reach, or that breaks the contract: null and a log line', () => {
    const memory = new FaultyMemory();
    const far = new Device({ name: 'far', memory, log });
    const pool = dma_pool_create('p', far, 64, 0, 0)!;
    const honest = memory.allocCoherent.bind(memory);
    memory.allocCoherent = (request) => {
      const got = honest({ ...request, device: { name: 'far', dmaMask: Number.MAX_SAFE_INTEGER } });
      return got === null
        ? null
        : { ...got, dma: 2 ** 40, size: got.size, buffer: got.buffer, byteOffset: got.byteOffset };
    };
    assert.equal(dma_pool_alloc(pool, GFP_KERNEL), null);
    assert.equal(dma_alloc_coherent(far, 64, null, GFP_KERNEL), null);
    assert.match(
      log.lines[0]!,
      /^error far: dma_pool_alloc p failed\n {2}far: memory at 0x10000000000-.* is above the DMA mask/,
    );
    assert.match(log.lines[1]!, /^error far: dma_alloc_coherent failed\n {2}far: memory at/);
  });

  it('corrupted, in debug mode, with the address and a hex dump', () => {
    process.env['DMAPOOL_DEBUG'] = '1';
    try {
      const pool = dma_pool_create('ohci_td', device, 32, 32, 0)!;
      const td = dma_pool_alloc(pool, GFP_KERNEL)!;
      const { bytes } = td;
      const where = pointer(td);
      dma_pool_free(pool, td, td.dma);
      bytes[4] = 0x42;
      assert.notEqual(dma_pool_alloc(pool, GFP_KERNEL), null);
      assert.equal(lines()[0], `error 0000:00:1d.7: dma_pool_alloc ohci_td, ${where} (corrupted)`);
      assert.match(lines()[1]!, /^ {2}block 0 at 0x[0-9a-f]+ was written to while free: 1 bytes changed/);
      assert.match(lines()[2]!, /^ {2}00000000: a7 a7 a7 a7 42 a7/);
      dma_pool_free(pool, td);
      assert.match(log.lines.at(-1)!, /dma_pool_free ohci_td, dma 0x[0-9a-f]{16} already free\n.*in quarantine/);
      dma_pool_destroy(pool);
      assert.match(log.lines.at(-1)!, /dma_pool_destroy ohci_td busy\n.*still out:\n.*log\.test\.[jt]s/);
    } finally {
      delete process.env['DMAPOOL_DEBUG'];
    }
  });

  it('a managed pool is destroyed once; destroy of an unmanaged one only warns', () => {
    const pool = dmam_pool_create('ehci_qh', device, 96, 32, 4096)!;
    dmam_pool_destroy(pool);
    assert.throws(() => dma_pool_alloc(pool, GFP_KERNEL), { code: 'ERR_DMAPOOL_DESTROYED' });
    dmam_pool_destroy(qtds);
    assert.deepEqual(lines(), ['warn 0000:00:1d.7: WARNING: dmam_pool_destroy ehci_qtd: it is not managed']);
    assert.notEqual(dma_pool_alloc(qtds, GFP_KERNEL), null);
  });

  it('an invalid free of coherent memory, worded as by CONFIG_DMA_API_DEBUG, changes nothing', () => {
    const ring = dma_alloc_coherent(device, 4088, null, GFP_KERNEL)!;
    const at = `[device address=${pad(ring.dma)}]`;
    const not = 'DMA-API: device driver tries to free DMA memory it has not allocated';
    dma_free_coherent(device, 512, ring, ring.dma);
    dma_free_coherent(device, 4088, ring, ring.dma + 4096);
    dma_free_coherent(device, 4088, ring, ring.dma);
    dma_free_coherent(device, 4088, ring, ring.dma);
    const firstLines = log.lines.map((message) => message.split('\n')[0]!.replace('error 0000:00:1d.7: ', ''));
    assert.deepEqual(firstLines, [
      `DMA-API: device driver frees DMA memory with different size ${at} [map size=4088 bytes] [unmap size=512 bytes]`,
      `${not} [device address=${pad(ring.dma + 4096)}] [size=4088 bytes]`,
      `${not} ${at} [size=4088 bytes]`,
    ]);
  });
});
