// Java: DatagramSocket with a timeout.
import java.io.*;
import java.net.*;
import java.nio.charset.StandardCharsets;

class Main {
  public static void main(String[] args) throws IOException {
    var server = new InetSocketAddress("127.0.0.1", Integer.parseInt(args[0]));
    var keyboard = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    DatagramSocket socket = new DatagramSocket();
    socket.setSoTimeout(2000);
    for (String line; (line = keyboard.readLine()) != null;) {
      byte[] data = line.getBytes(StandardCharsets.UTF_8);
      socket.send(new DatagramPacket(data, data.length, server));
      DatagramPacket reply = new DatagramPacket(new byte[65535], 65535);
      try {
        socket.receive(reply);
        System.out.println(new String(reply.getData(), 0, reply.getLength(), StandardCharsets.UTF_8));
      } catch (SocketTimeoutException timeout) {
        System.out.println("lost");
      }
      if (line.equals("stop")) break;
    }
  }
}
