/** Takes the second wall away alone, for what is to be seen of the rules behind it. */
import { systemWall } from "../../src/firewall/wall/wall.ts";

systemWall().bring(null);
