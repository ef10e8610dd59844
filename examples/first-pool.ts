/**
 * A first pool: a device, its pool, and blocks with two addresses. Runs on Node, Bun and Deno, and in browsers.
 *
 *     pool --page by page--> memory
 *      |
 *      v
 *     block: `bytes`, `u32`, ... for the program; `dma` for the device
 */
import { Device, dmaBitMask, DmaError, DmaPool, HeapMemory, lower32Bits, storeRelease32 } from 'dmapool';

const memory = new HeapMemory();
// The device reaches addresses of 32 bits.
const device = new Device({ name: '0000:00:02.0', dmaMask: dmaBitMask(32), memory });
// Blocks of 96 bytes, each at a multiple of 32. No block crosses a multiple of 4096.
const transfers = DmaPool.create('transfer', device, { size: 96, align: 32, boundary: 4096 });

// Two linked descriptors. The link is the address that the device uses.
const first = transfers.alloc({ zero: true });
const second = transfers.alloc({ zero: true });
first.u32[0] = lower32Bits(second.dma);
storeRelease32(first.u32, 2, 0x80); // last: the word that activates the descriptor
console.log(`descriptors at 0x${first.dma.toString(16)} and 0x${second.dma.toString(16)}`);
console.log(`${transfers.geometry.blocksPerPage} blocks on a page of ${transfers.geometry.allocation} bytes`);

// The device reads the first descriptor and follows the link.
const seen = new Uint8Array(12);
memory.read(device, first.dma, seen);
const link = new DataView(seen.buffer).getUint32(0, true);
console.log(`the device follows the link to block ${transfers.blockAt(link)?.index ?? -1}`);

// Every free is checked.
transfers.free(second);
try {
  transfers.free(second);
} catch (error) {
  if (!(error instanceof DmaError)) throw error;
  console.log(`${error.code}: ${error.message}`);
}

// The block that was freed last is allocated first.
console.log(`the same block again: ${String(transfers.alloc() === second)}`);
console.log(device.readAttribute('pools'));

for (const block of transfers.allocated()) transfers.free(block);
transfers.destroy();
console.log(`${memory.bytesInUse} bytes in use`);
