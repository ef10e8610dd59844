/** A user's program that uses the allocator: compiled and run in an empty project that has only the package. */
import type { PoolGeometry } from 'dmapool';
import { Device, dmaBitMask, type DmaBlock, DmaError, DmaPool, HeapMemory, storeRelease32 } from 'dmapool';

const memory = new HeapMemory({ limit: 1024 * 1024 });
const device = new Device({ name: '0000:00:02.0', dmaMask: dmaBitMask(32), memory });
const pool = DmaPool.create('ehci_qtd', device, { size: 96, align: 32, boundary: 4096 });
const qtd: DmaBlock<'ehci_qtd'> = pool.alloc({ zero: true });
storeRelease32(qtd.u32, 2, 0x80);
const geometry: PoolGeometry = pool.geometry;
if (geometry.blocksPerPage !== 42 || memory.bytesInUse !== 4096)
  throw new Error('the layout differs from the documented one');
pool.free(qtd);
let code = '';
try {
  pool.free(qtd);
} catch (error) {
  if (error instanceof DmaError) code = error.code;
}
if (code !== 'ERR_DMAPOOL_NOT_ALLOCATED') throw new Error('a double free was not detected');
device.detach();
pool.destroy();
